// Crop and paste on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "geometry.hpp"

namespace dtir {

// 3 bytes a pixel; `stride` bytes from row to row.
template <typename Byte>
struct Picture {
  Byte* pixels;
  std::ptrdiff_t stride;
  int width, height;
};

// Writes plans.size() crops of size x size x 3 bytes, one behind the other.
void crop_faces(const Picture<const std::uint8_t>& frame, std::span<const CropPlan> plans, int size,
                bool swap_channels, std::uint8_t* crops);

// Blends as many cartoons of size x size x 3 bytes over the frame, in their order.
void paste_faces(const Picture<std::uint8_t>& frame, std::span<const PastePlan> plans, int size,
                 bool swap_channels, const std::uint8_t* cartoons);

}  // namespace dtir
