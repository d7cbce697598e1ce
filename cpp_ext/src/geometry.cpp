#include "geometry.hpp"

#include <algorithm>
#include <cmath>

namespace dtir {
namespace {

constexpr double kMost = 1e18;  // so that no product with a coordinate overflows a float

int clamped(double value, int most) {
  return static_cast<int>(std::clamp(value, 0.0, static_cast<double>(most)));
}

// The frame's pixels under the crop, with one pixel to spare.
Box covered(const Affine& inverse, int size, int frame_width, int frame_height) {
  const double side = size;
  const double xs[] = {0.0, inverse.xx * side, inverse.xy * side, (inverse.xx + inverse.xy) * side};
  const double ys[] = {0.0, inverse.yx * side, inverse.yy * side, (inverse.yx + inverse.yy) * side};
  const auto [left, right] = std::minmax_element(xs, xs + 4);
  const auto [top, bottom] = std::minmax_element(ys, ys + 4);
  return {clamped(std::floor(*left + inverse.x0) - 1, frame_width),
          clamped(std::floor(*top + inverse.y0) - 1, frame_height),
          clamped(std::ceil(*right + inverse.x0) + 1, frame_width),
          clamped(std::ceil(*bottom + inverse.y0) + 1, frame_height)};
}

int reduced_length(int length, double scale) {
  return std::max(1, static_cast<int>(std::nearbyint(length * scale * 1.5)));
}

}  // namespace

Affine Affine::after(const Affine& first) const {
  return {xx * first.xx + xy * first.yx, xx * first.xy + xy * first.yy,
          xx * first.x0 + xy * first.y0 + x0,
          yx * first.xx + yy * first.yx, yx * first.xy + yy * first.yy,
          yx * first.x0 + yy * first.y0 + y0};
}

std::optional<Affine> Affine::inverse() const {
  const double determinant = xx * yy - xy * yx;
  const Affine found{yy / determinant,  -xy / determinant, (xy * y0 - yy * x0) / determinant,
                     -yx / determinant, xx / determinant,  (yx * x0 - xx * y0) / determinant};
  for (const double number : {found.xx, found.xy, found.x0, found.yx, found.yy, found.y0}) {
    if (!(std::abs(number) < kMost)) return std::nullopt;
  }
  return found;
}

Map::Map(const Affine& affine)
    : xx(static_cast<float>(affine.xx)), xy(static_cast<float>(affine.xy)),
      x0(static_cast<float>(affine.x0)), yx(static_cast<float>(affine.yx)),
      yy(static_cast<float>(affine.yy)), y0(static_cast<float>(affine.y0)) {}

CropPlan plan_crop(const Affine& transform, const Affine& inverse, int size, int frame_width,
                   int frame_height) {
  const double scale = std::hypot(transform.xx, transform.yx);
  const Box region = covered(inverse, size, frame_width, frame_height);
  if (scale >= 0.5 || region.empty()) {
    return {Map(inverse), {0, 0, frame_width, frame_height}, frame_width, frame_height, false};
  }
  // Bilinear sampling alone would skip pixels of a large face: average them first.
  const int region_width = region.right - region.left;
  const int region_height = region.bottom - region.top;
  const int width = reduced_length(region_width, scale);
  const int height = reduced_length(region_height, scale);
  const double shrink_x = static_cast<double>(width) / region_width;
  const double shrink_y = static_cast<double>(height) / region_height;
  // Pixel centres: frame x -> reduced x is (x - left + 0.5) * shrink - 0.5.
  const Affine to_reduced{shrink_x, 0.0, (0.5 - region.left) * shrink_x - 0.5,
                          0.0, shrink_y, (0.5 - region.top) * shrink_y - 0.5};
  return {Map(to_reduced.after(inverse)), region, width, height, true};
}

PastePlan plan_paste(const Affine& transform, const Affine& inverse, int size, int frame_width,
                     int frame_height) {
  return {transform, covered(inverse, size, frame_width, frame_height)};
}

}  // namespace dtir
