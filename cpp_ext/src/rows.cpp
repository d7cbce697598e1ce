#include "rows.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

// DTIR_CLONES is set by CMake where the compiler can compile for several levels of x86-64 and the
// C library picks one at run time.
#ifdef DTIR_CLONES
#include <immintrin.h>  // declares the built-in functions

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
using Chars32 = char __attribute__((vector_size(32)));
using SignedShorts16 = std::int16_t __attribute__((vector_size(32)));
using Integers8 = std::int32_t __attribute__((vector_size(32)));
using Words4 = std::uint64_t __attribute__((vector_size(32)));
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

// Bilinear between pairs of pixels, in two ways; each gives the result times its `kOne`.
template <bool wide>
struct Mixer;

template <>
struct Mixer<false> {
  using Down = float;
  static constexpr float kOne = 1.0f;

  DTIR_HD static Down weigh(float down) { return down; }

  template <int pixel>
  DTIR_HD static Floats4 mix_pair(std::uint64_t upper, std::uint64_t lower, float right,
                                  Down down) {
    const Floats4 above = to_floats(upper), above_next = to_floats(upper >> (8 * pixel));
    const Floats4 first = above + (to_floats(lower) - above) * down;
    const Floats4 second = above_next + (to_floats(lower >> (8 * pixel)) - above_next) * down;
    return first + (second - first) * right;
  }
};

#ifdef DTIR_CLONES
// For processors with vectors of 32 bytes: downwards in integers, which takes half the steps, with
// weights rounded to 1/16384, which is 0.01 of 255 levels at most.
template <>
struct Mixer<true> {
  using Down = std::int32_t;  // weight of the lower pixel << 16 | weight of the upper one
  static constexpr float kOne = 1 << 14;

  DTIR_HD static Down weigh(float down) {
    const auto lower = static_cast<std::int32_t>(down * kOne + 0.5f);
    return (1 << 14) + lower * 0xFFFF;
  }

  template <int pixel>
  DTIR_HD static Floats4 mix_pair(std::uint64_t upper, std::uint64_t lower, float right,
                                  Down down) {
    const Words4 uppers{upper, upper, upper, upper}, lowers{lower, lower, lower, lower};
    const Words4 both = __builtin_shufflevector(uppers, lowers, 0, 5, 2, 7);
    // To 16 bits, upper beside lower; the second pixel in the upper half. -1 makes a zero.
    constexpr char p = pixel, q = pixel + 8;
    constexpr Chars32 order{0,     -1, 8,     -1, 1,     -1, 9,     -1,
                            2,     -1, 10,    -1, 3,     -1, 11,    -1,
                            p,     -1, q,     -1, p + 1, -1, q + 1, -1,
                            p + 2, -1, q + 2, -1, p + 3, -1, q + 3, -1};
    const auto words = reinterpret_cast<SignedShorts16>(
        __builtin_ia32_pshufb256(reinterpret_cast<Chars32>(both), order));
    const auto weights = reinterpret_cast<SignedShorts16>(Integers8{} + down);
    const Floats8 mixed = __builtin_convertvector(
        reinterpret_cast<Integers8>(__builtin_ia32_pmaddwd256(words, weights)), Floats8);
    const Floats4 first = __builtin_shufflevector(mixed, mixed, 0, 1, 2, 3);
    const Floats4 second = __builtin_shufflevector(mixed, mixed, 4, 5, 6, 7);
    return first + (second - first) * right;
  }
};
#endif

template <bool swap>
DTIR_HD void store_rounded(Floats4 pixel, float scale, std::uint8_t* out) {
  const Floats4 shifted = pixel * scale + kRounder;
  const Bytes16 bits = reinterpret_cast<const Bytes16&>(shifted);
  Bytes4 bytes;
  if constexpr (swap) {
    bytes = __builtin_shufflevector(bits, bits, 8, 4, 0, 12);
  } else {
    bytes = __builtin_shufflevector(bits, bits, 0, 4, 8, 12);
  }
  std::memcpy(out, &bytes, sizeof bytes);
}

// Where the pixels of a line lie in the source, in bytes, and their weights.
template <bool wide, typename Offset>
struct Places {
  Offset offsets[kChunk];
  float right[kChunk];
  typename Mixer<wide>::Down down[kChunk];
  Offset furthest = 0;
};

// `checked` for pairs of which some may end behind the picture.
template <int pixel, bool swap, bool wide, bool checked, typename Offset>
DTIR_HD void mix_pairs(const Source& source, const Places<wide, Offset>& places, int count,
                       std::uint8_t* out) {
  // Of their own: `out`, which is bytes, might otherwise be the source's members.
  const std::uint8_t *const pixels = source.pixels, *const end = source.end;
  const std::uint8_t* const below = pixels + (source.height > 1 ? source.stride : 0);
  for (int i = 0; i < count; ++i) {
    const std::ptrdiff_t offset = places.offsets[i];
    const std::uint64_t upper =
        checked ? load_pair(pixels + offset, end) : load<std::uint64_t>(pixels + offset);
    const std::uint64_t lower =
        checked ? load_pair(below + offset, end) : load<std::uint64_t>(below + offset);
    store_rounded<swap>(Mixer<wide>::template mix_pair<pixel>(upper, lower, places.right[i],
                                                              places.down[i]),
                        1.0f / Mixer<wide>::kOne, out + i * kChannels);
  }
}

// `inside` for lines of which no pixel needs to be replicated: the same taps with fewer steps.
template <int pixel, bool inside, bool wide, typename Offset>
DTIR_HD void find_places(const Source& source, const Line& line, int count,
                         Places<wide, Offset>& places) {
  const Offset stride = static_cast<Offset>(source.stride);
  const int width = source.width, height = source.height;
  Offset furthest = 0;
  for (int i = 0; i < count; ++i) {
    const float column = line.x + line.step_x * static_cast<float>(i);
    const float row = line.y + line.step_y * static_cast<float>(i);
    const Taps x = inside ? inner_taps(column) : replicated_taps(column, width);
    const Taps y = inside ? inner_taps(row) : replicated_taps(row, height);
    const Offset offset = y.first * stride + x.first * pixel;
    places.offsets[i] = offset;
    furthest = offset > furthest ? offset : furthest;
    places.right[i] = x.weight;
    places.down[i] = Mixer<wide>::weigh(y.weight);
  }
  places.furthest = furthest;
}

// Whether all of a line's positions on one axis are 0 or more and less than length - 1.
DTIR_HD bool lies_inside(float start, float step, int count, int length) {
  const float end = start + step * static_cast<float>(count - 1);
  const float most = static_cast<float>(length - 1);
  return start >= 0.0f && end >= 0.0f && start < most && end < most;
}

template <int pixel, bool swap, bool wide, typename Offset>
DTIR_HD void sample(const Source& source, const Line& line, int count, std::uint8_t* out) {
  Places<wide, Offset> places;
  if (lies_inside(line.x, line.step_x, count, source.width) &&
      lies_inside(line.y, line.step_y, count, source.height)) [[likely]] {
    find_places<pixel, true>(source, line, count, places);
  } else {
    find_places<pixel, false>(source, line, count, places);
  }
  const std::ptrdiff_t below = source.height > 1 ? source.stride : 0;
  const std::ptrdiff_t room = source.end - source.pixels;
  if (places.furthest + below + static_cast<std::ptrdiff_t>(sizeof(std::uint64_t)) <= room) {
    mix_pairs<pixel, swap, wide, false>(source, places, count, out);
  } else {
    mix_pairs<pixel, swap, wide, true>(source, places, count, out);
  }
}

template <int pixel, bool swap, bool wide>
DTIR_HD void sample(const Source& source, const Line& line, int count, std::uint8_t* out) {
  // Half as wide, offsets are found twice as fast.
  if (source.end - source.pixels <= std::numeric_limits<std::int32_t>::max()) [[likely]] {
    sample<pixel, swap, wide, std::int32_t>(source, line, count, out);
  } else {
    sample<pixel, swap, wide, std::ptrdiff_t>(source, line, count, out);
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
    store_rounded<false>(sum, 1.0f, out + i * 4);
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
