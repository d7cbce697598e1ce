// How a pixel is sampled, averaged and blended: the one specification that the C++ and the CUDA
// code share. It follows OpenCV's warpAffine (INTER_LINEAR), resize (INTER_AREA) and blendLinear.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DTIR_HD __host__ __device__ __forceinline__
#else
#define DTIR_HD inline __attribute__((always_inline))
#endif

namespace dtir {

constexpr int kChannels = 3;

// Adding this to a float in [0, 2^22) rounds it to an integer, ties to even, which then stands in
// the lowest bits of its representation.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

DTIR_HD std::uint8_t round_to_byte(float value) {
  const float shifted = value + kRounder;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return static_cast<std::uint8_t>(bits);
}

// Two neighbours on one axis and the weight of the second one.
struct Taps {
  int first;
  float weight;
};

// Beyond the edge the outermost pixel repeats. The second tap is always inside, too, unless the
// axis is a single pixel long: then its weight is 0. NaN counts as 0.
DTIR_HD Taps replicated_taps(float position, int length) {
  const float most = static_cast<float>(length - 1);
  float inside = position > 0.0f ? position : 0.0f;
  inside = inside < most ? inside : most;
  int first = static_cast<int>(inside);
  const int last = length > 2 ? length - 2 : 0;
  first = first < last ? first : last;
  return {first, inside - static_cast<float>(first)};
}

// The same for a position of 0 or more and less than length - 1.
DTIR_HD Taps inner_taps(float position) {
  const int first = static_cast<int>(position);
  return {first, position - static_cast<float>(first)};
}

DTIR_HD float mix(float from, float to, float weight) { return from + (to - from) * weight; }

// The source pixels begin..end-1 that one pixel of an area reduction averages, with their weights.
struct AreaSpan {
  int begin;
  int end;
  float head;  // weight of the first
  float body;  // of those between
  float tail;  // of the last

  DTIR_HD float weight(int source) const {
    return source == begin ? head : source == end - 1 ? tail : body;
  }
};

// `stretch` is source length / reduced length, 1 or more.
DTIR_HD AreaSpan area_span(int reduced, double stretch, int length) {
  constexpr double kSliver = 1e-3;  // smaller shares of a pixel are left out
  const double from = reduced * stretch;
  const double to = from + stretch;
  const double cell = stretch < length - from ? stretch : length - from;
  int whole_end = static_cast<int>(to);
  whole_end = whole_end < length - 1 ? whole_end : length - 1;
  int whole_begin = static_cast<int>(ceil(from));
  whole_begin = whole_begin < whole_end ? whole_begin : whole_end;

  const float body = static_cast<float>(1.0 / cell);
  AreaSpan span{whole_begin, whole_end, body, body, body};
  if (whole_begin - from > kSliver) {
    span.begin = whole_begin - 1;
    span.head = static_cast<float>((whole_begin - from) / cell);
  }
  if (to - whole_end > kSliver) {
    double share = to - whole_end;
    share = share < 1.0 ? share : 1.0;
    share = share < cell ? share : cell;
    span.end = whole_end + 1;
    span.tail = static_cast<float>(share / cell);
    if (span.begin == whole_end) span.head = span.tail;
  }
  return span;
}

// To be added to an average before it is rounded: OpenCV rounds ties up where both sides are
// halved, and to even everywhere else.
DTIR_HD float area_bias(int width, int height, int reduced_width, int reduced_height) {
  return width == 2 * reduced_width && height == 2 * reduced_height ? 0.125f : 0.0f;
}

// Opacity of a cartoon's pixel row or column: 1 inside, falling to 0 over the outermost 6%.
// 0 outside of the cartoon.
DTIR_HD float ramp(float index, float size, float inverse_rim) {
  const float before = index + 0.5f;
  const float behind = size - index - 0.5f;
  const float share = (before < behind ? before : behind) * inverse_rim;
  const float positive = share > 0.0f ? share : 0.0f;
  return positive < 1.0f ? positive : 1.0f;
}

DTIR_HD float rim_width(int size) {
  const double share = 0.06 * size;
  return static_cast<float>(share > 1.0 ? share : 1.0);
}

// Opacity at a position in the cartoon, bilinear between its pixels; 0 beyond them.
DTIR_HD float opacity(float u, float v, float size, float inverse_rim) {
  // Between -1 and size: farther out everything is 0, and no float is too large for an int.
  u = u > -1.0f ? u : -1.0f;
  v = v > -1.0f ? v : -1.0f;
  u = u < size ? u : size;
  v = v < size ? v : size;
  const float left = static_cast<float>(static_cast<int>(u + 1.0f)) - 1.0f;
  const float top = static_cast<float>(static_cast<int>(v + 1.0f)) - 1.0f;
  const float u0 = ramp(left, size, inverse_rim);
  const float u1 = ramp(left + 1.0f, size, inverse_rim);
  const float v0 = ramp(top, size, inverse_rim);
  const float v1 = ramp(top + 1.0f, size, inverse_rim);
  const float above = mix(u0 < v0 ? u0 : v0, u1 < v0 ? u1 : v0, u - left);
  const float below = mix(u0 < v1 ? u0 : v1, u1 < v1 ? u1 : v1, u - left);
  return mix(above, below, v - top);
}

DTIR_HD std::uint8_t blend(float over, float under, float cover) {
  constexpr float kInverseSum = 1.0f / (1.0f + 1e-5f);  // blendLinear divides by the sum + 1e-5
  return round_to_byte((over * cover + under * (1.0f - cover)) * kInverseSum);
}

}  // namespace dtir
