#include "faces.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "rows.hpp"

namespace dtir {
namespace {

using Bytes = std::unique_ptr<std::uint8_t[]>;
constexpr int kReducedPixel = 4;  // bytes: a fourth one lets pairs be read in one go

// An area reduction along one axis, as `average_row` takes it.
struct Averaging {
  std::vector<int> begins;
  std::vector<float> weights;
  int taps = 1;

  Averaging(int reduced, int length) {
    const double stretch = static_cast<double>(length) / reduced;
    std::vector<AreaSpan> spans;
    spans.reserve(static_cast<std::size_t>(reduced));
    for (int i = 0; i < reduced; ++i) {
      spans.push_back(area_span(i, stretch, length));
      taps = std::max(taps, spans.back().end - spans.back().begin);
    }
    weights.resize(spans.size() * static_cast<std::size_t>(taps), 0.0f);
    begins.reserve(spans.size());
    for (std::size_t i = 0; i < spans.size(); ++i) {
      // Every pixel takes as many taps, those beyond its span with weight 0.
      begins.push_back(std::min(spans[i].begin, length - taps));
      float* row = weights.data() + i * static_cast<std::size_t>(taps);
      for (int k = spans[i].begin; k < spans[i].end; ++k) row[k - begins[i]] = spans[i].weight(k);
    }
  }
};

// The plan's region of the frame, reduced, with `kReducedPixel` bytes a pixel.
Bytes reduce(const Picture<const std::uint8_t>& frame, const CropPlan& plan) {
  const int region_width = plan.region.right - plan.region.left;
  const int region_height = plan.region.bottom - plan.region.top;
  const std::uint8_t* region =
      frame.pixels + plan.region.top * frame.stride + plan.region.left * kChannels;
  const Averaging across(plan.width, region_width);
  const double stretch = static_cast<double>(region_height) / plan.height;
  const float bias = area_bias(region_width, region_height, plan.width, plan.height);
  const std::size_t count = static_cast<std::size_t>(region_width) * kChannels;
  std::vector<float> sums(count + 1);
  const std::size_t row_bytes = static_cast<std::size_t>(plan.width) * kReducedPixel;
  Bytes reduced = std::make_unique_for_overwrite<std::uint8_t[]>(
      row_bytes * static_cast<std::size_t>(plan.height));
  for (int y = 0; y < plan.height; ++y) {
    sum_rows(region, frame.stride, area_span(y, stretch, region_height), count, sums.data());
    average_row(sums.data(), across.begins.data(), across.weights.data(), across.taps, bias,
                plan.width, reduced.get() + static_cast<std::size_t>(y) * row_bytes);
  }
  return reduced;
}

void crop_face(const Picture<const std::uint8_t>& frame, const CropPlan& plan, int size,
               bool swap_channels, std::uint8_t* crop) {
  Bytes reduced;
  Source source{frame.pixels,
                frame.pixels + (frame.height - 1) * frame.stride + frame.width * kChannels,
                frame.stride, frame.width, frame.height, kChannels};
  if (plan.reduced) {
    reduced = reduce(frame, plan);
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(plan.width) * kReducedPixel;
    source = {reduced.get(), reduced.get() + stride * plan.height, stride, plan.width, plan.height,
              kReducedPixel};
  }
  const Map& map = plan.crop_to_source;
  std::uint8_t chunk[kChunk * kChannels + 1];
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; x += kChunk) {
      const int count = std::min(kChunk, size - x);
      const float right = static_cast<float>(x), down = static_cast<float>(y);
      const Line line{map.xx * right + map.xy * down + map.x0,
                      map.yx * right + map.yy * down + map.y0, map.xx, map.yx};
      // One byte more is written, which is the next row's; behind the last row there is none.
      if (y + 1 < size) {
        sample_row(source, line, count, swap_channels, crop);
      } else {
        sample_row(source, line, count, swap_channels, chunk);
        std::memcpy(crop, chunk, static_cast<std::size_t>(count * kChannels));
      }
      crop += count * kChannels;
    }
  }
}

struct Interval {
  double low, high;
};

// Where low <= start + step * x <= high, within `bounds`.
Interval solve(double start, double step, double low, double high, Interval bounds) {
  const Interval nowhere{bounds.low, bounds.low - 1.0};
  if (low > high) return nowhere;
  if (step == 0.0) return start >= low && start <= high ? bounds : nowhere;
  double from = (low - start) / step, to = (high - start) / step;
  if (from > to) std::swap(from, to);
  return {std::max(bounds.low, from), std::min(bounds.high, to)};
}

void paste_face(const Picture<std::uint8_t>& frame, const PastePlan& plan, int size,
                bool swap_channels, const std::uint8_t* cartoon) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(size) * kChannels;
  const Source source{cartoon, cartoon + stride * size, stride, size, size, kChannels};
  const Affine& map = plan.frame_to_cartoon;
  // One pixel more than the rim: the inside must be opaque whatever the rounding.
  const double rim = std::ceil(rim_width(size)) + 1.0;
  std::uint8_t chunk[kChunk * kChannels + 1];

  for (int y = plan.region.top; y < plan.region.bottom; ++y) {
    const double u = map.xy * y + map.x0, v = map.yy * y + map.y0;
    Interval row{static_cast<double>(plan.region.left),
                 static_cast<double>(plan.region.right - 1)};
    row = solve(u, map.xx, -1.0, size, row);
    row = solve(v, map.yx, -1.0, size, row);
    if (!(row.low <= row.high)) continue;
    Interval inside = solve(u, map.xx, rim, size - 1 - rim, row);
    inside = solve(v, map.yx, rim, size - 1 - rim, inside);
    const int begin = static_cast<int>(std::floor(row.low));
    const int end = std::min(static_cast<int>(std::ceil(row.high)) + 1, plan.region.right);
    int opaque_begin = end, opaque_end = end;
    if (inside.low <= inside.high) {
      opaque_begin = static_cast<int>(std::ceil(inside.low));
      opaque_end = std::max(opaque_begin, static_cast<int>(std::floor(inside.high)) + 1);
    }
    for (int x = begin; x < end;) {
      const bool opaque = x >= opaque_begin && x < opaque_end;
      const int until = x < opaque_begin ? opaque_begin : opaque ? opaque_end : end;
      const int count = std::min(kChunk, until - x);
      const Line line{static_cast<float>(map.xx * x + u), static_cast<float>(map.yx * x + v),
                      static_cast<float>(map.xx), static_cast<float>(map.yx)};
      std::uint8_t* target = frame.pixels + y * frame.stride + x * kChannels;
      sample_row(source, line, count, swap_channels, chunk);
      if (opaque) {
        std::memcpy(target, chunk, static_cast<std::size_t>(count * kChannels));
      } else {
        blend_row(chunk, line, count, size, target);
      }
      x += count;
    }
  }
}

}  // namespace

void crop_faces(const Picture<const std::uint8_t>& frame, std::span<const CropPlan> plans, int size,
                bool swap_channels, std::uint8_t* crops) {
  const std::size_t bytes = static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * kChannels;
  for (const CropPlan& plan : plans) {
    crop_face(frame, plan, size, swap_channels, crops);
    crops += bytes;
  }
}

void paste_faces(const Picture<std::uint8_t>& frame, std::span<const PastePlan> plans, int size,
                 bool swap_channels, const std::uint8_t* cartoons) {
  const std::size_t bytes = static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * kChannels;
  for (const PastePlan& plan : plans) {
    paste_face(frame, plan, size, swap_channels, cartoons);
    cartoons += bytes;
  }
}

}  // namespace dtir
