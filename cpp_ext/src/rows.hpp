// The inner loops, each over one row of pixels, compiled for several levels of x86-64.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling.hpp"

namespace dtir {

// What is sampled. `pixel` is the bytes from one pixel to the next, 3 or 4; no byte at or behind
// `end` is read.
struct Source {
  const std::uint8_t* pixels;
  const std::uint8_t* end;
  std::ptrdiff_t stride;
  int width, height;
  int pixel;
};

// A straight line through the source, from (x, y) in equal steps.
struct Line {
  float x, y, step_x, step_y;
};

constexpr int kChunk = 256;

// Samples `count` <= kChunk pixels, bilinearly, to `out`, which has room for one byte more.
void sample_row(const Source& source, const Line& line, int count, bool swap_channels,
                std::uint8_t* out);

// Blends `count` <= kChunk pixels `over` into `row`; `line` leads through the cartoon.
void blend_row(const std::uint8_t* over, const Line& line, int count, int size, std::uint8_t* row);

// sums[i] = weighted sum over the span's rows, for `count` bytes.
void sum_rows(const std::uint8_t* pixels, std::ptrdiff_t stride, const AreaSpan& span,
              std::size_t count, float* sums);

// Averages along a row of sums (3 a pixel, room for one float more) to 4 bytes a pixel. Pixel i
// takes `taps` pixels from begins[i] on with the weights from weights[i * taps] on, and `bias`.
void average_row(const float* sums, const int* begins, const float* weights, int taps, float bias,
                 int count, std::uint8_t* out);

}  // namespace dtir
