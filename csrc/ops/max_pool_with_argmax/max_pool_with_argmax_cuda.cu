// Each thread owns kPack channels of a window. Threads next to one another own channels next to one
// another, so that loads and stores are coalesced; a block stays in one row of windows.
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "ops/max_pool_with_argmax/max_pool_with_argmax.h"

namespace kvision {
namespace {

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    PoolKernel(MaxPoolParameters parameters, const T* __restrict__ x, T* __restrict__ pooled,
               int32_t* __restrict__ argmax, unsigned blocks_in_row) {
  using F = AccumulatorOf<T>;
  const MaxPoolAxis &rows = parameters.rows, &columns = parameters.columns;
  const int64_t channels = parameters.channels, packs = channels / kPack;
  const unsigned row = blockIdx.x / blocks_in_row;
  const int64_t in_row = int64_t{blockIdx.x % blocks_in_row} * kPackThreads + threadIdx.x;
  if (in_row >= columns.windows * packs) return;
  const unsigned windows_down = static_cast<unsigned>(rows.windows);
  const MaxPoolCells ys = rows.CellsOf(row % windows_down), xs = columns.CellsOf(in_row / packs);
  const int64_t width = columns.size;
  const T* const map =
      x + row / windows_down * parameters.Cells() * channels + in_row % packs * kPack;
  const int64_t first = ys.begin * width + xs.begin;
  Pack<T, kPack> best = LoadPack<kPack>(map + first * channels);
  Pack<int32_t, kPack> cells;
  F best_values[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    best_values[k] = ToFloat(best.values[k]);
    cells.values[k] = static_cast<int32_t>(first);
  }
  for (int64_t y = ys.begin; y < ys.end; ++y) {
    for (int64_t cell = y * width + xs.begin; cell < y * width + xs.end; ++cell) {
      const Pack<T, kPack> values = LoadPack<kPack>(map + cell * channels);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const F value = ToFloat(values.values[k]), known = best_values[k];
        if (value > known || (value != value && known == known)) {
          best_values[k] = value;
          best.values[k] = values.values[k];
          cells.values[k] = static_cast<int32_t>(cell);
        }
      }
    }
  }
  const int64_t at = row * columns.windows * channels + in_row * kPack;
  StorePack<kPack>(best, pooled + at);
  StorePack<kPack>(cells, argmax + at);
}

}  // namespace

template <typename T>
const char* MaxPoolWithArgmaxCuda(const MaxPoolParameters& parameters, const T* x, T* pooled,
                                  int32_t* argmax, void* stream) {
  const int64_t channels = parameters.channels;
  if (parameters.batch * parameters.Windows() * channels == 0) return nullptr;
  const auto launch = [&](auto kernel, int pack) {
    const unsigned blocks = BlocksFor(parameters.columns.windows * (channels / pack), kPackThreads);
    kernel<<<BlocksFor(parameters.batch * parameters.rows.windows * blocks, 1), kPackThreads, 0,
             static_cast<cudaStream_t>(stream)>>>(parameters, x, pooled, argmax, blocks);
  };
  if (Packs<kFullPack<T>>(channels, x, pooled, argmax)) {
    launch(PoolKernel<T, kFullPack<T>>, kFullPack<T>);
  } else {
    launch(PoolKernel<T, 1>, 1);
  }
  return LastCudaError();
}

#define KVISION_MAX_POOL(T)                                                                       \
  template const char* MaxPoolWithArgmaxCuda<T>(const MaxPoolParameters&, const T*, T*, int32_t*, \
                                                void*);
KVISION_MAX_POOL(Half)
KVISION_MAX_POOL(BFloat16)
KVISION_MAX_POOL(float)
KVISION_MAX_POOL(double)
#undef KVISION_MAX_POOL

}  // namespace kvision
