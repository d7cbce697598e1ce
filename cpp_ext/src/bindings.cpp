// The Python module: checks every argument, lets go of the GIL, and calls the C++ or CUDA code.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "faces.hpp"
#include "geometry.hpp"
#include "sampling.hpp"
#ifdef DTIR_CUDA
#include "device.hpp"
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using dtir::Affine;

constexpr std::int64_t kLongestSide = 32767;  // OpenCV's limit, and exact in a float

enum class Place { host, device };

// An array of any library, held alive. Strides are in elements.
struct Array {
  nb::object owner;
  char* data = nullptr;
  nb::dlpack::dtype dtype{};
  std::vector<std::int64_t> shape, strides;
  bool writable = false;
};

std::string text(const std::vector<std::int64_t>& shape) {
  std::string joined = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    joined += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return joined + "]";
}

std::string python_type(nb::handle object) {
  return nb::borrow<nb::str>(object.type().attr("__name__")).c_str();
}

template <typename NdArray>
Array described(nb::object owner, const NdArray& from, bool writable) {
  Array array;
  array.owner = std::move(owner);
  array.data = const_cast<char*>(static_cast<const char*>(from.data()));
  array.dtype = from.dtype();
  array.writable = writable;
  for (std::size_t i = 0; i < from.ndim(); ++i) {
    array.shape.push_back(static_cast<std::int64_t>(from.shape(i)));
    array.strides.push_back(from.stride(i));
  }
  return array;
}

// nanobind's view of an array, through DLPack or the buffer protocol. The view holds it alive.
Array imported(nb::handle object, const std::string& name, int device_type, const char* wanted) {
  nb::ndarray<> writable;
  if (nb::try_cast(object, writable, false) && writable.is_valid()) {
    if (writable.device_type() != device_type) throw nb::type_error((name + wanted).c_str());
    return described(nb::cast(writable), writable, true);
  }
  nb::ndarray<nb::ro> readable;
  if (nb::try_cast(object, readable, false) && readable.is_valid()) {
    if (readable.device_type() != device_type) throw nb::type_error((name + wanted).c_str());
    return described(nb::borrow(object), readable, false);
  }
  throw nb::type_error((name + wanted + ", not " + python_type(object)).c_str());
}

#ifdef DTIR_CUDA
Array from_cuda_array_interface(nb::object object, const std::string& name) {
  const nb::dict interface = nb::cast<nb::dict>(object.attr("__cuda_array_interface__"));
  Array array;
  array.owner = object;
  const nb::tuple data = nb::cast<nb::tuple>(interface["data"]);
  array.data = reinterpret_cast<char*>(nb::cast<std::uintptr_t>(data[0]));
  array.writable = !nb::cast<bool>(data[1]);
  if (nb::cast<std::string>(interface["typestr"]) == "|u1") array.dtype = nb::dtype<std::uint8_t>();
  for (nb::handle length : nb::cast<nb::tuple>(interface["shape"])) {
    array.shape.push_back(nb::cast<std::int64_t>(length));
  }
  array.strides.resize(array.shape.size());
  std::int64_t packed = 1;
  for (std::size_t i = array.shape.size(); i-- > 0; packed *= array.shape[i]) {
    array.strides[i] = packed;
  }
  // Given in bytes, which are uint8 elements, too.
  if (interface.contains("strides") && !interface["strides"].is_none()) {
    const nb::tuple strides = nb::cast<nb::tuple>(interface["strides"]);
    if (strides.size() != array.shape.size()) {
      throw nb::value_error((name + " must have one stride a dimension").c_str());
    }
    for (std::size_t i = 0; i < strides.size(); ++i) {
      array.strides[i] = nb::cast<std::int64_t>(strides[i]);
    }
  }
  return array;
}
#endif

Array any_array(nb::handle object, const std::string& name, Place place) {
  if (place == Place::host) {
    return imported(object, name, nb::device::cpu::value, " must be an array in host memory");
  }
#ifdef DTIR_CUDA
  if (nb::hasattr(object, "__cuda_array_interface__")) {
    return from_cuda_array_interface(nb::borrow(object), name);
  }
  return imported(object, name, nb::device::cuda::value, " must be an array in GPU memory");
#else
  throw std::logic_error("built without CUDA");
#endif
}

bool packed_from(const Array& array, std::size_t first) {
  // Of an empty array, the strides mean nothing.
  if (std::ranges::find(array.shape, 0) != array.shape.end()) return true;
  std::int64_t expected = 1;
  for (std::size_t i = array.shape.size(); i-- > first;) {
    if (array.shape[i] != 1 && array.strides[i] != expected) return false;
    expected *= array.shape[i];
  }
  return true;
}

// uint8, of as many dimensions, the last one 3 channels, none empty.
Array pictures(nb::handle object, const std::string& name, Place place, std::size_t dimensions,
               bool write) {
  Array array = any_array(object, name, place);
  if (array.dtype != nb::dtype<std::uint8_t>()) {
    throw nb::type_error((name + " must be uint8").c_str());
  }
  const std::string wanted = dimensions == 3 ? "[H, W, 3]" : "[N, S, S, 3]";
  if (array.shape.size() != dimensions || array.shape.back() != dtir::kChannels) {
    throw nb::value_error(
        (name + " must be " + wanted + ", not " + text(array.shape)).c_str());
  }
  for (std::size_t i = dimensions - 3; i < dimensions - 1; ++i) {
    if (array.shape[i] < 1 || array.shape[i] > kLongestSide) {
      throw nb::value_error((name + " of " + text(array.shape) + " has a side that is not 1 to " +
                             std::to_string(kLongestSide) + " pixels long")
                                .c_str());
    }
  }
  if (write && !array.writable) throw nb::value_error((name + " is read-only").c_str());
#ifdef DTIR_CUDA
  if (place == Place::device && array.data != nullptr) {
    dtir::device::check_pointer(array.data, name);
  }
#endif
  return array;
}

template <typename Byte>
dtir::Picture<Byte> frame_picture(const Array& array, const std::string& name) {
  const std::int64_t row = array.shape[1] * dtir::kChannels;
  if (!packed_from(array, 1) || (array.shape[0] > 1 && array.strides[0] < row)) {
    throw nb::value_error(
        (name + " must have contiguous rows: pass numpy.ascontiguousarray(...)").c_str());
  }
  return {reinterpret_cast<Byte*>(array.data),
          static_cast<std::ptrdiff_t>(array.shape[0] > 1 ? array.strides[0] : row),
          static_cast<int>(array.shape[1]), static_cast<int>(array.shape[0])};
}

// A batch of square pictures, one behind the other.
Array batch(nb::handle object, const std::string& name, Place place, std::int64_t count,
            bool write) {
  Array array = pictures(object, name, place, 4, write);
  if (array.shape[1] != array.shape[2]) {
    throw nb::value_error((name + " must be square, not " + text(array.shape)).c_str());
  }
  if (array.shape[0] != count) {
    throw nb::value_error((name + " holds " + std::to_string(array.shape[0]) + " pictures for " +
                           std::to_string(count) + " transforms")
                              .c_str());
  }
  if (!packed_from(array, 0)) throw nb::value_error((name + " must be contiguous").c_str());
  return array;
}

struct Placement {
  Affine transform, inverse;
};

std::vector<Placement> placements(nb::handle object) {
  const Array array = any_array(object, "transforms", Place::host);
  if (array.dtype != nb::dtype<double>()) throw nb::type_error("transforms must be float64");
  if (array.shape.size() != 3 || array.shape[1] != 2 || array.shape[2] != 3) {
    throw nb::value_error(("transforms must be [N, 2, 3], not " + text(array.shape)).c_str());
  }
  std::vector<Placement> found;
  for (std::int64_t n = 0; n < array.shape[0]; ++n) {
    double entries[6];
    for (std::int64_t i = 0; i < 6; ++i) {
      const std::int64_t at =
          n * array.strides[0] + i / 3 * array.strides[1] + i % 3 * array.strides[2];
      std::memcpy(&entries[i], array.data + at * static_cast<std::int64_t>(sizeof(double)),
                  sizeof(double));
    }
    const Affine transform{entries[0], entries[1], entries[2], entries[3], entries[4], entries[5]};
    const std::optional<Affine> inverse = transform.inverse();
    if (!inverse || !inverse->inverse()) {
      throw nb::value_error(("transform " + std::to_string(n) +
                             " cannot be inverted: it must be finite and not singular")
                                .c_str());
    }
    found.push_back({transform, *inverse});
  }
  return found;
}

int checked_size(std::int64_t size) {
  if (size < 1 || size > kLongestSide) {
    throw nb::value_error(("size must be 1 to " + std::to_string(kLongestSide) + ", not " +
                           std::to_string(size))
                              .c_str());
  }
  return static_cast<int>(size);
}

template <typename Byte>
std::vector<dtir::CropPlan> crop_plans(const std::vector<Placement>& places,
                                       const dtir::Picture<Byte>& frame, int size) {
  std::vector<dtir::CropPlan> plans;
  for (const Placement& place : places) {
    plans.push_back(
        dtir::plan_crop(place.transform, place.inverse, size, frame.width, frame.height));
  }
  return plans;
}

template <typename Byte>
std::vector<dtir::PastePlan> paste_plans(const std::vector<Placement>& places,
                                         const dtir::Picture<Byte>& frame, int size) {
  std::vector<dtir::PastePlan> plans;
  for (const Placement& place : places) {
    plans.push_back(
        dtir::plan_paste(place.transform, place.inverse, size, frame.width, frame.height));
  }
  return plans;
}

nb::object crop_faces(nb::handle frame, nb::handle transforms, std::int64_t size,
                      bool swap_channels, nb::handle out) {
  const Array source = pictures(frame, "frame", Place::host, 3, false);
  const auto picture = frame_picture<const std::uint8_t>(source, "frame");
  const std::vector<Placement> places = placements(transforms);
  const int side = checked_size(size);
  const auto count = static_cast<std::int64_t>(places.size());

  nb::object result = nb::borrow(out);
  if (out.is_none()) {
    result = nb::module_::import_("numpy").attr("empty")(nb::make_tuple(count, side, side, 3),
                                                         "uint8");
  }
  const Array target = batch(result, "out", Place::host, count, true);
  if (target.shape[1] != side) {
    throw nb::value_error(("out is " + text(target.shape) + ", but size is " +
                           std::to_string(side))
                              .c_str());
  }
  {
    nb::gil_scoped_release released;
    dtir::crop_faces(picture, crop_plans(places, picture, side), side, swap_channels,
                     reinterpret_cast<std::uint8_t*>(target.data));
  }
  return result;
}

void paste_faces(nb::handle frame, nb::handle cartoons, nb::handle transforms,
                 bool swap_channels) {
  const Array target = pictures(frame, "frame", Place::host, 3, true);
  const auto picture = frame_picture<std::uint8_t>(target, "frame");
  const std::vector<Placement> places = placements(transforms);
  const Array source = batch(cartoons, "cartoons", Place::host,
                             static_cast<std::int64_t>(places.size()), false);
  const int side = static_cast<int>(source.shape[1]);
  nb::gil_scoped_release released;
  dtir::paste_faces(picture, paste_plans(places, picture, side), side, swap_channels,
                    reinterpret_cast<const std::uint8_t*>(source.data));
}

#ifdef DTIR_CUDA
void device_crop_faces(nb::handle frame, nb::handle transforms, nb::handle out, bool swap_channels,
                       std::uintptr_t stream) {
  const Array source = pictures(frame, "frame", Place::device, 3, false);
  const auto picture = frame_picture<const std::uint8_t>(source, "frame");
  const std::vector<Placement> places = placements(transforms);
  const Array target =
      batch(out, "out", Place::device, static_cast<std::int64_t>(places.size()), true);
  const int side = static_cast<int>(target.shape[1]);
  nb::gil_scoped_release released;
  dtir::device::crop_faces(picture, crop_plans(places, picture, side), side, swap_channels,
                           reinterpret_cast<std::uint8_t*>(target.data),
                           reinterpret_cast<void*>(stream));
}

void device_paste_faces(nb::handle frame, nb::handle cartoons, nb::handle transforms,
                        bool swap_channels, std::uintptr_t stream) {
  const Array target = pictures(frame, "frame", Place::device, 3, true);
  const auto picture = frame_picture<std::uint8_t>(target, "frame");
  const std::vector<Placement> places = placements(transforms);
  const Array source = batch(cartoons, "cartoons", Place::device,
                             static_cast<std::int64_t>(places.size()), false);
  const int side = static_cast<int>(source.shape[1]);
  nb::gil_scoped_release released;
  dtir::device::paste_faces(picture, paste_plans(places, picture, side), side, swap_channels,
                            reinterpret_cast<const std::uint8_t*>(source.data),
                            reinterpret_cast<void*>(stream));
}
#else
[[noreturn]] void without_cuda() {
  throw std::runtime_error(
      "dtir_ext was built without CUDA: install NVIDIA's CUDA toolkit (nvcc), then build it again "
      "with pip install --force-reinstall --no-deps ./cpp_ext");
}

void device_crop_faces(nb::handle, nb::handle, nb::handle, bool, std::uintptr_t) {
  without_cuda();
}

void device_paste_faces(nb::handle, nb::handle, nb::handle, bool, std::uintptr_t) {
  without_cuda();
}
#endif

}  // namespace

// The docstrings are those of _native.pyi. None is let in, to be refused in plain words.
NB_MODULE(_native, module) {
  module.attr("cuda_architectures") = DTIR_CUDA_ARCHITECTURES;
  module.def("crop_faces", &crop_faces, "frame"_a.none(), "transforms"_a.none(), "size"_a, nb::kw_only(),
             "swap_channels"_a = false, "out"_a = nb::none());
  module.def("paste_faces", &paste_faces, "frame"_a.none(), "cartoons"_a.none(), "transforms"_a.none(), nb::kw_only(),
             "swap_channels"_a = false);
  module.def("device_crop_faces", &device_crop_faces, "frame"_a.none(), "transforms"_a.none(), "out"_a.none(),
             nb::kw_only(), "swap_channels"_a = false, "stream"_a = 0);
  module.def("device_paste_faces", &device_paste_faces, "frame"_a.none(), "cartoons"_a.none(), "transforms"_a.none(),
             nb::kw_only(), "swap_channels"_a = false, "stream"_a = 0);
}
