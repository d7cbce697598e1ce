#include "rows.hpp"

#include <algorithm>
#include <type_traits>

// DTIR_CLONES is set by CMake where the compiler can compile for several levels of x86-64 and the
// C library picks one at run time.
#ifdef DTIR_CLONES
#define DTIR_VERSION(name) __attribute__((target(name)))
#define DTIR_VERSIONS                                                               \
  __attribute__((target_clones("default", "arch=x86-64-v2", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DTIR_VERSION(name)
#define DTIR_VERSIONS
#endif

namespace dtir {
namespace {

// Vectors of the compiler's: one source for SSE2, AVX2, AVX-512 and NEON.
using Bytes4 = std::uint8_t __attribute__((vector_size(4)));
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));
using Shorts8 = std::uint16_t __attribute__((vector_size(16)));
using Integers4 = std::int32_t __attribute__((vector_size(16)));
using Words2 = std::uint64_t __attribute__((vector_size(16)));
using Bytes32 = std::uint8_t __attribute__((vector_size(32)));
using Words4 = std::uint64_t __attribute__((vector_size(32)));
using Integers8 = std::int32_t __attribute__((vector_size(32)));
using Floats4 = float __attribute__((vector_size(16)));
using Floats8 = float __attribute__((vector_size(32)));

template <typename Vector>
DTIR_HD Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

// Two neighbouring pixels, in the 8 bytes from `from` on.
DTIR_HD std::uint64_t load_pair(const std::uint8_t* from, const std::uint8_t* end) {
  std::uint64_t pair = 0;
  if (end - from >= 8) [[likely]] {
    std::memcpy(&pair, from, sizeof pair);
  } else {
    std::memcpy(&pair, from, static_cast<std::size_t>(end - from));
  }
  return pair;
}

// Bytes become floats by shuffles with zeros, since GCC 12 takes __builtin_convertvector from
// bytes to floats apart, byte for byte.

// The lowest 4 bytes.
DTIR_HD Floats4 to_floats(std::uint64_t bytes) {
  const Bytes16 zero{};
  const Bytes16 low = reinterpret_cast<Bytes16>(Words2{bytes, 0});
  const Shorts8 shorts = reinterpret_cast<Shorts8>(__builtin_shufflevector(
      low, zero, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
  const Shorts8 wide = __builtin_shufflevector(shorts, reinterpret_cast<Shorts8>(zero), 0, 8, 1, 9,
                                               2, 10, 3, 11);
  return __builtin_convertvector(reinterpret_cast<Integers4>(wide), Floats4);
}

// The first pixel in the lower half, the second in the upper.
template <int pixel>
DTIR_HD Floats8 pair_to_floats(std::uint64_t pair) {
  const Bytes32 bytes = reinterpret_cast<Bytes32>(Words4{pair, pair, pair, pair});
  const Bytes32 zero{};
  constexpr int p = pixel + 16;
  const Bytes32 wide = __builtin_shufflevector(
      bytes, zero, 0, 32, 32, 32, 1, 32, 32, 32, 2, 32, 32, 32, 3, 32, 32, 32,
      p, 32, 32, 32, p + 1, 32, 32, 32, p + 2, 32, 32, 32, p + 3, 32, 32, 32);
  return __builtin_convertvector(reinterpret_cast<Integers8>(wide), Floats8);
}

// Bilinear between two pairs of pixels; `wide` for processors with vectors of 32 bytes.
template <int pixel, bool wide>
DTIR_HD Floats4 between(std::uint64_t upper, std::uint64_t lower, float right, float down) {
  if constexpr (wide) {
    const Floats8 above = pair_to_floats<pixel>(upper);
    const Floats8 pair = above + (pair_to_floats<pixel>(lower) - above) * down;
    const Floats4 first = __builtin_shufflevector(pair, pair, 0, 1, 2, 3);
    const Floats4 second = __builtin_shufflevector(pair, pair, 4, 5, 6, 7);
    return first + (second - first) * right;
  } else {
    const Floats4 above = to_floats(upper), above_next = to_floats(upper >> (8 * pixel));
    const Floats4 first = above + (to_floats(lower) - above) * down;
    const Floats4 second = above_next + (to_floats(lower >> (8 * pixel)) - above_next) * down;
    return first + (second - first) * right;
  }
}

template <bool swap>
DTIR_HD void store_rounded(Floats4 pixel, std::uint8_t* out) {
  const Floats4 shifted = pixel + kRounder;
  const Bytes16 bits = reinterpret_cast<const Bytes16&>(shifted);
  Bytes4 bytes;
  if constexpr (swap) {
    bytes = __builtin_shufflevector(bits, bits, 8, 4, 0, 12);
  } else {
    bytes = __builtin_shufflevector(bits, bits, 0, 4, 8, 12);
  }
  std::memcpy(out, &bytes, sizeof bytes);
}

// `checked` for pairs of which some may end behind the picture.
template <int pixel, bool swap, bool wide, bool checked>
DTIR_HD void mix_pairs(const Source& source, const std::ptrdiff_t* offsets, const float* right,
                       const float* down, int count, std::uint8_t* out) {
  const std::ptrdiff_t below = source.height > 1 ? source.stride : 0;
  for (int i = 0; i < count; ++i) {
    const std::uint8_t* place = source.pixels + offsets[i];
    const std::uint64_t upper = checked ? load_pair(place, source.end) : load<std::uint64_t>(place);
    const std::uint64_t lower =
        checked ? load_pair(place + below, source.end) : load<std::uint64_t>(place + below);
    store_rounded<swap>(between<pixel, wide>(upper, lower, right[i], down[i]), out + i * kChannels);
  }
}

template <int pixel, bool swap, bool wide>
DTIR_HD void sample(const Source& source, const Line& line, int count, std::uint8_t* out) {
  std::ptrdiff_t offsets[kChunk];
  float right[kChunk], down[kChunk];
  std::ptrdiff_t furthest = 0;
  for (int i = 0; i < count; ++i) {
    const Taps x = replicated_taps(line.x + line.step_x * static_cast<float>(i), source.width);
    const Taps y = replicated_taps(line.y + line.step_y * static_cast<float>(i), source.height);
    offsets[i] = y.first * source.stride + x.first * pixel;
    furthest = offsets[i] > furthest ? offsets[i] : furthest;
    right[i] = x.weight;
    down[i] = y.weight;
  }
  const std::ptrdiff_t below = source.height > 1 ? source.stride : 0;
  const std::ptrdiff_t room = source.end - source.pixels;
  if (furthest + below + static_cast<std::ptrdiff_t>(sizeof(std::uint64_t)) <= room) {
    mix_pairs<pixel, swap, wide, false>(source, offsets, right, down, count, out);
  } else {
    mix_pairs<pixel, swap, wide, true>(source, offsets, right, down, count, out);
  }
}

template <bool wide>
DTIR_HD void sample_any(const Source& source, const Line& line, int count, bool swap_channels,
                        std::uint8_t* out) {
  if (source.pixel == 3) {
    swap_channels ? sample<3, true, wide>(source, line, count, out)
                  : sample<3, false, wide>(source, line, count, out);
  } else {
    swap_channels ? sample<4, true, wide>(source, line, count, out)
                  : sample<4, false, wide>(source, line, count, out);
  }
}

#ifdef DTIR_CLONES
DTIR_VERSION("arch=x86-64-v4")
void sample_best(const Source& source, const Line& line, int count, bool swap_channels,
                 std::uint8_t* out) {
  sample_any<true>(source, line, count, swap_channels, out);
}

DTIR_VERSION("arch=x86-64-v3")
void sample_best(const Source& source, const Line& line, int count, bool swap_channels,
                 std::uint8_t* out) {
  sample_any<true>(source, line, count, swap_channels, out);
}

DTIR_VERSION("arch=x86-64-v2")
void sample_best(const Source& source, const Line& line, int count, bool swap_channels,
                 std::uint8_t* out) {
  sample_any<false>(source, line, count, swap_channels, out);
}
#endif

DTIR_VERSION("default")
void sample_best(const Source& source, const Line& line, int count, bool swap_channels,
                 std::uint8_t* out) {
  sample_any<false>(source, line, count, swap_channels, out);
}

template <int fixed>
DTIR_HD void average(const float* sums, const int* begins, const float* weights, int taps,
                     float bias, int count, std::uint8_t* out) {
  const int tap_count = fixed > 0 ? fixed : taps;
  for (int i = 0; i < count; ++i) {
    const float* from = sums + static_cast<std::ptrdiff_t>(begins[i]) * kChannels;
    const float* weight = weights + static_cast<std::ptrdiff_t>(i) * tap_count;
    Floats4 sum = load<Floats4>(from) * weight[0] + bias;
    for (int tap = 1; tap < tap_count; ++tap) {
      sum += load<Floats4>(from + tap * kChannels) * weight[tap];
    }
    store_rounded<false>(sum, out + i * 4);
  }
}

}  // namespace

void sample_row(const Source& source, const Line& line, int count, bool swap_channels,
                std::uint8_t* out) {
  sample_best(source, line, count, swap_channels, out);
}

DTIR_VERSIONS
void blend_row(const std::uint8_t* over, const Line& line, int count, int size,
               std::uint8_t* row) {
  const float side = static_cast<float>(size);
  const float inverse_rim = 1.0f / rim_width(size);
  float covers[kChunk];
  for (int i = 0; i < count; ++i) {
    covers[i] = opacity(line.x + line.step_x * static_cast<float>(i),
                        line.y + line.step_y * static_cast<float>(i), side, inverse_rim);
  }
  float expanded[kChunk * kChannels];
  for (int i = 0; i < count; ++i) {
    for (int channel = 0; channel < kChannels; ++channel) {
      expanded[i * kChannels + channel] = covers[i];
    }
  }
  for (int i = 0; i < count * kChannels; ++i) {
    row[i] = blend(static_cast<float>(over[i]), static_cast<float>(row[i]), expanded[i]);
  }
}

DTIR_VERSIONS
void sum_rows(const std::uint8_t* pixels, std::ptrdiff_t stride, const AreaSpan& span,
              std::size_t count, float* sums) {
  for (int begin = span.begin; begin < span.end; begin += 4) {
    const int rows = std::min(4, span.end - begin);
    const std::uint8_t* row[4];
    float weight[4];
    for (int i = 0; i < 4; ++i) {
      row[i] = pixels + (begin + std::min(i, rows - 1)) * stride;
      weight[i] = i < rows ? span.weight(begin + i) : 0.0f;
    }
    const float keep = begin == span.begin ? 0.0f : 1.0f;
    if (keep == 0.0f) std::fill_n(sums, count, 0.0f);
    if (rows == 1) {
      for (std::size_t i = 0; i < count; ++i) sums[i] += weight[0] * row[0][i];
    } else if (rows == 2) {
      for (std::size_t i = 0; i < count; ++i) {
        sums[i] += weight[0] * row[0][i] + weight[1] * row[1][i];
      }
    } else if (rows == 3) {
      for (std::size_t i = 0; i < count; ++i) {
        sums[i] += weight[0] * row[0][i] + weight[1] * row[1][i] + weight[2] * row[2][i];
      }
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        sums[i] += weight[0] * row[0][i] + weight[1] * row[1][i] + weight[2] * row[2][i] +
                   weight[3] * row[3][i];
      }
    }
  }
}

DTIR_VERSIONS
void average_row(const float* sums, const int* begins, const float* weights, int taps, float bias,
                 int count, std::uint8_t* out) {
  switch (taps) {
    case 2: return average<2>(sums, begins, weights, taps, bias, count, out);
    case 3: return average<3>(sums, begins, weights, taps, bias, count, out);
    case 4: return average<4>(sums, begins, weights, taps, bias, count, out);
    default: return average<0>(sums, begins, weights, taps, bias, count, out);
  }
}

}  // namespace dtir
