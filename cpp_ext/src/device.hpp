// Crop and paste on the GPU: the specification of faces.hpp, for pictures in device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "faces.hpp"
#include "geometry.hpp"

namespace dtir::device {

// Both enqueue on `stream` (a cudaStream_t) and return at once; they allocate nothing. A failed
// launch throws std::runtime_error.
void crop_faces(const Picture<const std::uint8_t>& frame, std::span<const CropPlan> plans, int size,
                bool swap_channels, std::uint8_t* crops, void* stream);
void paste_faces(const Picture<std::uint8_t>& frame, std::span<const PastePlan> plans, int size,
                 bool swap_channels, const std::uint8_t* cartoons, void* stream);

// Throws std::invalid_argument unless the pointer is memory of the current GPU.
void check_pointer(const void* pointer, const std::string& name);

}  // namespace dtir::device
