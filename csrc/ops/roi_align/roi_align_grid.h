// Where the samples of a box lie: geometry that the CPU and the CUDA kernels share.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/bilinear.h"
#include "common/host_device.h"
#include "ops/roi_align/roi_align.h"

namespace kvision {

// No contraction to fused multiply-adds on the device: the order and rounding of these steps decide
// counts and borders. Host code is built without it.
#ifdef __CUDA_ARCH__
KVISION_HOST_DEVICE inline float Multiply(float a, float b) { return __fmul_rn(a, b); }
KVISION_HOST_DEVICE inline double Multiply(double a, double b) { return __dmul_rn(a, b); }
#else
template <typename F>
KVISION_HOST_DEVICE inline F Multiply(F a, F b) {
  return a * b;
}
#endif

// The samples [first, first + number) of a bin. `first` may exceed every integer type.
template <typename F>
struct RoiAlignSamples {
  F first;
  int64_t number;
};

// One axis of one box: bin b begins at start + b * bin_extent and has `count` evenly spaced
// samples.
template <typename F>
struct RoiAlignAxis {
  F start, bin_extent, count;
  int64_t size;  // cells of the map

  KVISION_HOST_DEVICE F BinStart(int64_t bin) const {
    return start + Multiply(static_cast<F>(bin), bin_extent);
  }

  KVISION_HOST_DEVICE F Position(F bin_start, F sample) const {
    return bin_start + Multiply(sample + F(0.5), bin_extent) / count;
  }

  // The weight of one sample in the mean along this axis.
  KVISION_HOST_DEVICE F SampleWeight() const { return F(1) / count; }

  // The samples that may lie between `low` and `high`, which are in order and on or near the map.
  // Those of an adaptive grid are more than half a cell apart where a bin has several, so their
  // number is bounded by the distance; one more at each end makes up for rounding.
  KVISION_HOST_DEVICE RoiAlignSamples<F> SamplesBetween(F bin_start, F low, F high,
                                                        bool adaptive) const {
    if (!(count >= F(1)) || size == 0) return {0, 0};
    if (!adaptive || count == F(1)) return {0, static_cast<int64_t>(count)};
    const F spacing = bin_extent / count;
    F first = std::floor((low - bin_start) / spacing - F(1.5));
    F last = std::ceil((high - bin_start) / spacing + F(0.5));
    first = first > F(0) ? first : F(0);
    last = last < count - F(1) ? last : count - F(1);
    if (!(first <= last)) return {0, 0};
    const F limit = F(2) * (high - low) + F(6);
    const F number = last - first + F(1);
    return {first, static_cast<int64_t>(number < limit ? number : limit)};
  }

  KVISION_HOST_DEVICE RoiAlignSamples<F> SamplesOnMap(F bin_start, bool adaptive) const {
    return SamplesBetween(bin_start, F(-1), static_cast<F>(size), adaptive);
  }
};

template <typename F>
struct RoiAlignGrid {
  RoiAlignAxis<F> rows, columns;
  bool valid;
};

template <typename F>
KVISION_HOST_DEVICE inline RoiAlignAxis<F> MakeRoiAlignAxis(F start, F extent, int64_t bins,
                                                            int64_t sampling_ratio, int64_t size) {
  const F bin_extent = extent / static_cast<F>(bins);
  const F count = sampling_ratio > 0 ? static_cast<F>(sampling_ratio) : std::ceil(bin_extent);
  return {start, bin_extent, count, size};
}

// `box` is its four corners.
template <typename F>
KVISION_HOST_DEVICE inline RoiAlignGrid<F> MakeRoiAlignGrid(const F* box, double spatial_scale,
                                                            int64_t height, int64_t width,
                                                            const RoiAlignParameters& parameters) {
  const F scale = static_cast<F>(spatial_scale);
  const F shift = parameters.aligned ? F(0.5) : F(0);
  const F x1 = Multiply(box[0], scale) - shift, y1 = Multiply(box[1], scale) - shift;
  const F x2 = Multiply(box[2], scale) - shift, y2 = Multiply(box[3], scale) - shift;
  F box_width = x2 - x1, box_height = y2 - y1;
  const bool valid = std::isfinite(x1) && std::isfinite(y1) && std::isfinite(box_width) &&
                     std::isfinite(box_height);
  if (!parameters.aligned) {
    box_width = box_width > F(1) ? box_width : F(1);
    box_height = box_height > F(1) ? box_height : F(1);
  }
  return {
      MakeRoiAlignAxis(y1, box_height, parameters.output_height, parameters.sampling_ratio, height),
      MakeRoiAlignAxis(x1, box_width, parameters.output_width, parameters.sampling_ratio, width),
      valid};
}

// The map that a box reads and its grid there; not valid if there is nothing to read.
template <typename F, typename Level>
inline RoiAlignGrid<F> RoiAlignGridOf(int64_t box, const RoiAlignParameters& parameters,
                                      Span<const Level> levels, const F* boxes,
                                      const int32_t* box_levels) {
  const int32_t index = box_levels[box];
  if (index < 0 || index >= levels.size) return {};
  const Level& level = levels[index];
  return MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale, level.height, level.width,
                          parameters);
}

}  // namespace kvision
