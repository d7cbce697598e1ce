#include "device.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

#include "sampling.hpp"

namespace dtir::device {
namespace {

constexpr int kFacesPerLaunch = 32;  // their plans travel as kernel arguments, 4 KB at most
const dim3 kBlock(32, 8);

struct CropBatch {
  CropPlan plans[kFacesPerLaunch];
};

struct PasteFace {
  Map map;
  Box region;
};

struct PasteBatch {
  PasteFace faces[kFacesPerLaunch];
};

using Frame = Picture<const std::uint8_t>;

__device__ const std::uint8_t* pixel_at(const Frame& frame, int x, int y) {
  return frame.pixels + y * frame.stride + static_cast<std::ptrdiff_t>(x) * kChannels;
}

// One pixel of the reduced region. Each is worked out anew for the crop's pixels around it: that
// costs less than a second launch and a buffer.
__device__ void average(const Frame& frame, const CropPlan& plan, int x, int y,
                        float (&pixel)[kChannels]) {
  const int width = plan.region.right - plan.region.left;
  const int height = plan.region.bottom - plan.region.top;
  const AreaSpan across = area_span(x, static_cast<double>(width) / plan.width, width);
  const AreaSpan down = area_span(y, static_cast<double>(height) / plan.height, height);
  float sums[kChannels] = {};
  for (int row = down.begin; row < down.end; ++row) {
    const std::uint8_t* from =
        pixel_at(frame, plan.region.left + across.begin, plan.region.top + row);
    float row_sums[kChannels] = {};
    for (int column = across.begin; column < across.end; ++column, from += kChannels) {
      for (int channel = 0; channel < kChannels; ++channel) {
        row_sums[channel] += from[channel] * across.weight(column);
      }
    }
    for (int channel = 0; channel < kChannels; ++channel) {
      sums[channel] += row_sums[channel] * down.weight(row);
    }
  }
  const float bias = area_bias(width, height, plan.width, plan.height);
  for (int channel = 0; channel < kChannels; ++channel) {
    pixel[channel] = round_to_byte(sums[channel] + bias);
  }
}

__device__ void fetch(const Frame& frame, const CropPlan& plan, int x, int y,
                      float (&pixel)[kChannels]) {
  if (plan.reduced) {
    average(frame, plan, x, y, pixel);
    return;
  }
  const std::uint8_t* from = pixel_at(frame, x, y);
  for (int channel = 0; channel < kChannels; ++channel) pixel[channel] = from[channel];
}

// One thread a pixel of the crops; blockIdx.z is the face.
__global__ void crop_kernel(const Frame frame, const CropBatch batch, int size, bool swap_channels,
                            std::uint8_t* crops) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= size || y >= size) return;
  const CropPlan& plan = batch.plans[blockIdx.z];
  const Map& map = plan.crop_to_source;
  const Taps across = replicated_taps(map.xx * x + (map.xy * y + map.x0), plan.width);
  const Taps down = replicated_taps(map.yx * x + (map.yy * y + map.y0), plan.height);
  const int right = min(across.first + 1, plan.width - 1);
  const int below = min(down.first + 1, plan.height - 1);
  float upper_left[kChannels], upper_right[kChannels];
  float lower_left[kChannels], lower_right[kChannels];
  fetch(frame, plan, across.first, down.first, upper_left);
  fetch(frame, plan, right, down.first, upper_right);
  fetch(frame, plan, across.first, below, lower_left);
  fetch(frame, plan, right, below, lower_right);
  std::uint8_t* to =
      crops + ((static_cast<std::size_t>(blockIdx.z) * size + y) * size + x) * kChannels;
  for (int channel = 0; channel < kChannels; ++channel) {
    const float left_mix = mix(upper_left[channel], lower_left[channel], down.weight);
    const float right_mix = mix(upper_right[channel], lower_right[channel], down.weight);
    to[swap_channels ? kChannels - 1 - channel : channel] =
        round_to_byte(mix(left_mix, right_mix, across.weight));
  }
}

// One thread a pixel of the frame within `area`; the faces are blended in their order.
__global__ void paste_kernel(const Picture<std::uint8_t> frame, const PasteBatch batch, int count,
                             const Box area, int size, bool swap_channels,
                             const std::uint8_t* cartoons) {
  const int x = area.left + blockIdx.x * blockDim.x + threadIdx.x;
  const int y = area.top + blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= area.right || y >= area.bottom) return;
  std::uint8_t* pixel = frame.pixels + y * frame.stride + static_cast<std::ptrdiff_t>(x) * kChannels;
  const float side = static_cast<float>(size);
  const float inverse_rim = 1.0f / rim_width(size);
  for (int face = 0; face < count; ++face) {
    const Box& region = batch.faces[face].region;
    if (x < region.left || x >= region.right || y < region.top || y >= region.bottom) continue;
    const Map& map = batch.faces[face].map;
    const float u = map.xx * x + (map.xy * y + map.x0);
    const float v = map.yx * x + (map.yy * y + map.y0);
    const float cover = opacity(u, v, side, inverse_rim);
    if (cover <= 0.0f) continue;
    const Taps across = replicated_taps(u, size);
    const Taps down = replicated_taps(v, size);
    const std::ptrdiff_t right = size > 1 ? kChannels : 0;
    const std::ptrdiff_t below = size > 1 ? static_cast<std::ptrdiff_t>(size) * kChannels : 0;
    const std::uint8_t* from =
        cartoons + ((static_cast<std::size_t>(face) * size + down.first) * size + across.first) *
                       kChannels;
    for (int channel = 0; channel < kChannels; ++channel) {
      const int source = swap_channels ? kChannels - 1 - channel : channel;
      const float left_mix = mix(from[source], from[source + below], down.weight);
      const float right_mix = mix(from[source + right], from[source + right + below], down.weight);
      const float over = round_to_byte(mix(left_mix, right_mix, across.weight));
      pixel[channel] = blend(over, pixel[channel], cover);
    }
  }
}

void check_launch(const char* what) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("the GPU could not ") + what + ": " +
                             cudaGetErrorString(error));
  }
}

unsigned blocks(int length, unsigned block) {
  return (static_cast<unsigned>(length) + block - 1) / block;
}

}  // namespace

void crop_faces(const Picture<const std::uint8_t>& frame, std::span<const CropPlan> plans, int size,
                bool swap_channels, std::uint8_t* crops, void* stream) {
  const std::size_t crop_bytes = static_cast<std::size_t>(size) * size * kChannels;
  for (std::size_t begin = 0; begin < plans.size(); begin += kFacesPerLaunch) {
    const std::size_t count = std::min<std::size_t>(kFacesPerLaunch, plans.size() - begin);
    CropBatch batch;
    std::copy_n(plans.begin() + begin, count, batch.plans);
    const dim3 grid(blocks(size, kBlock.x), blocks(size, kBlock.y), static_cast<unsigned>(count));
    crop_kernel<<<grid, kBlock, 0, static_cast<cudaStream_t>(stream)>>>(
        frame, batch, size, swap_channels, crops + begin * crop_bytes);
    check_launch("crop");
  }
}

void paste_faces(const Picture<std::uint8_t>& frame, std::span<const PastePlan> plans, int size,
                 bool swap_channels, const std::uint8_t* cartoons, void* stream) {
  const std::size_t cartoon_bytes = static_cast<std::size_t>(size) * size * kChannels;
  for (std::size_t begin = 0; begin < plans.size(); begin += kFacesPerLaunch) {
    const std::size_t count = std::min<std::size_t>(kFacesPerLaunch, plans.size() - begin);
    PasteBatch batch;
    Box area{frame.width, frame.height, 0, 0};
    for (std::size_t i = 0; i < count; ++i) {
      const PastePlan& plan = plans[begin + i];
      batch.faces[i] = {Map(plan.frame_to_cartoon), plan.region};
      if (plan.region.empty()) continue;
      area = {std::min(area.left, plan.region.left), std::min(area.top, plan.region.top),
              std::max(area.right, plan.region.right), std::max(area.bottom, plan.region.bottom)};
    }
    if (area.empty()) continue;
    const dim3 grid(blocks(area.right - area.left, kBlock.x),
                    blocks(area.bottom - area.top, kBlock.y));
    paste_kernel<<<grid, kBlock, 0, static_cast<cudaStream_t>(stream)>>>(
        frame, batch, static_cast<int>(count), area, size, swap_channels,
        cartoons + begin * cartoon_bytes);
    check_launch("paste");
  }
}

void check_pointer(const void* pointer, const std::string& name) {
  int current = 0;
  cudaPointerAttributes attributes{};
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaPointerGetAttributes(&attributes, pointer);
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw std::runtime_error(std::string("no GPU can be used: ") + cudaGetErrorString(error));
  }
  if (attributes.type == cudaMemoryTypeManaged) return;
  if (attributes.type != cudaMemoryTypeDevice) {
    throw std::invalid_argument(name + " does not lie in the memory of a GPU");
  }
  if (attributes.device != current) {
    throw std::invalid_argument(name + " lies on GPU " + std::to_string(attributes.device) +
                                ", but GPU " + std::to_string(current) + " is current");
  }
}

}  // namespace dtir::device
