// Where a crop lies in a frame: worked out once a face, on the host, in double precision.
#pragma once

#include <optional>

namespace dtir {

// x' = xx * x + xy * y + x0, y' = yx * x + yy * y + y0.
struct Affine {
  double xx, xy, x0;
  double yx, yy, y0;

  Affine after(const Affine& first) const;  // this one applied to the result of `first`
  std::optional<Affine> inverse() const;    // nothing where there is none in finite numbers
};

// The same in the precision that pixels are sampled with.
struct Map {
  float xx, xy, x0;
  float yx, yy, y0;

  Map() = default;
  explicit Map(const Affine& affine);
};

// Half-open.
struct Box {
  int left, top, right, bottom;

  bool empty() const { return right <= left || bottom <= top; }
};

// How to cut one face out: average `region` of the frame down to `width` x `height`, where it is
// to be reduced, and sample the result bilinearly at crop_to_source.
struct CropPlan {
  Map crop_to_source;
  Box region;
  int width, height;
  bool reduced;
};

// How to set one cartoon in: only pixels in `region` may change.
struct PastePlan {
  Affine frame_to_cartoon;
  Box region;
};

// `transform` carries frame pixels to crop pixels; `inverse` is its inverse.
CropPlan plan_crop(const Affine& transform, const Affine& inverse, int size, int frame_width,
                   int frame_height);
PastePlan plan_paste(const Affine& transform, const Affine& inverse, int size, int frame_width,
                     int frame_height);

}  // namespace dtir
