// Where RoIAlign samples along one axis of a box, for every op that pools so: on the CPU and with
// CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/bilinear.h"
#include "common/host_device.h"

namespace kvision {

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
KVISION_HOST_DEVICE inline RoiAlignAxis<F> MakeRoiAlignAxis(F start, F extent, int64_t bins,
                                                            int64_t sampling_ratio, int64_t size) {
  const F bin_extent = extent / static_cast<F>(bins);
  const F count = sampling_ratio > 0 ? static_cast<F>(sampling_ratio) : std::ceil(bin_extent);
  return {start, bin_extent, count, size};
}

}  // namespace kvision
