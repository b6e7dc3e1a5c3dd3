// What the CUDA kernels of RoIAlign have in common, forward and backward: the samples of a bin, and
// weighted sums of packs of channels.
#pragma once

#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"

namespace kvision {

template <int kPack, typename T>
__device__ inline void AddScaled(const T* from, AccumulatorOf<T> weight,
                                 AccumulatorOf<T> (&sums)[kPack]) {
  const Pack<T, kPack> pack = LoadPack<kPack>(from);
#pragma unroll
  for (int k = 0; k < kPack; ++k) sums[k] += weight * ToFloat(pack.values[k]);
}

template <int kPack, typename T>
__device__ inline void StoreSums(const AccumulatorOf<T> (&sums)[kPack], T* to) {
  Pack<T, kPack> pack;
#pragma unroll
  for (int k = 0; k < kPack; ++k) pack.values[k] = FromFloat<T>(sums[k]);
  StorePack<kPack>(pack, to);
}

// Calls `add(cell, weight)` for what each sample of a bin reads along one axis. What has no weight
// is not read, so that a NaN there does not matter.
template <typename F, typename Add>
__device__ inline void ForSamples(const RoiAlignAxis<F>& axis, F bin_start,
                                  const RoiAlignSamples<F>& samples, const Add& add) {
  for (int64_t i = 0; i < samples.number; ++i) {
    const F position = axis.Position(bin_start, samples.first + static_cast<F>(i));
    if (!ReadsMap(position, axis.size)) continue;
    const BilinearTaps<F> taps = TapsAt(position, axis.size);
#pragma unroll 1
    for (int high = 0; high < 2; ++high) {
      const F weight = high ? taps.high_weight : taps.low_weight;
      if (weight != F(0)) add(high ? taps.high : taps.low, weight * axis.SampleWeight());
    }
  }
}

}  // namespace kvision
