// Windows that do not overlap are the common case: each cell then looks into the one window whose
// block it lies in, for its value or a zero. An image in which a value comes from beyond its block
// is marked, and done once more in tiles: a block of threads owns a tile of the map and takes the
// positions that reach it in their order, so that sums have one order without atomic additions.
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "common/listed_boxes.cuh"
#include "ops/max_unpool/max_unpool.h"

namespace kvision {
namespace {

// Where windows do not overlap ------------------------------------------------------------------

__device__ inline int64_t WindowOf(int64_t cell, int64_t block, int64_t windows) {
  const int64_t window = cell / block;
  return window < windows ? window : windows - 1;
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    BlocksKernel(MaxUnpoolParameters parameters, const T* __restrict__ x,
                 const int32_t* __restrict__ argmax, T* __restrict__ map,
                 int32_t* __restrict__ overlaps, unsigned blocks_in_row, int64_t block_height,
                 int64_t block_width) {
  const int64_t channels = parameters.channels, packs = channels / kPack;
  const int64_t width = parameters.width;
  const unsigned row = blockIdx.x / blocks_in_row, height = parameters.height;
  const int64_t in_row = int64_t{blockIdx.x % blocks_in_row} * kPackThreads + threadIdx.x;
  if (in_row >= width * packs) return;
  const int64_t image = row / height, y = row % height, column = in_row / packs;
  const int64_t window_y = WindowOf(y, block_height, parameters.output_height);
  const int64_t window_x = WindowOf(column, block_width, parameters.output_width);
  const int64_t position = window_y * parameters.output_width + window_x;
  const int64_t at =
      (image * parameters.Positions() + position) * channels + in_row % packs * kPack;
  const Pack<T, kPack> values = LoadPack<kPack>(x + at);
  const Pack<int32_t, kPack> cells = LoadPack<kPack>(argmax + at);
  const int32_t cell = static_cast<int32_t>(y * width + column);
  Pack<T, kPack> own;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    // A sum from 0 has no -0.
    own.values[k] = cells.values[k] == cell ? FromFloat<T>(ToFloat(values.values[k]) + 0.f) : T{};
  }
  StorePack<kPack>(own, map + (int64_t{row} * width) * channels + in_row * kPack);
  if (y != window_y * block_height || column != window_x * block_width) return;
    // The first cell of a block answers for all of it.
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const int32_t of = cells.values[k];
    const bool on_map = of >= 0 && of < parameters.Cells();
    if (!on_map || WindowOf(of / width, block_height, parameters.output_height) != window_y ||
        WindowOf(of % width, block_width, parameters.output_width) != window_x) {
      overlaps[image] = 1;
    }
  }
}

// Where they do ----------------------------------------------------------------------------------

constexpr int kTileThreads = 64;
template <typename F>
constexpr int kTileRowsOf = sizeof(F) == 8 ? 4 : 8;
constexpr int kTileColumns = 8;

// The tiles that the channels of a position reach; a warp each.
__global__ void ReachKernel(MaxUnpoolParameters parameters, const int32_t* __restrict__ argmax,
                            const int32_t* __restrict__ overlaps, TileReach* __restrict__ reaches,
                            int tile_rows, int64_t total) {
  const int64_t position = ThreadInGrid() / kWarp;
  if (position >= total || !overlaps[position / parameters.Positions()]) return;
  int top = INT32_MAX, bottom = -1, left = INT32_MAX, right = -1;
  for (int64_t channel = threadIdx.x % kWarp; channel < parameters.channels; channel += kWarp) {
    const int32_t cell = argmax[position * parameters.channels + channel];
    if (cell < 0 || cell >= parameters.Cells()) continue;
    const int y = cell / static_cast<int>(parameters.width);
    const int x = cell % static_cast<int>(parameters.width);
    top = min(top, y);
    bottom = max(bottom, y);
    left = min(left, x);
    right = max(right, x);
  }
  top = __reduce_min_sync(kAllLanes, top);
  bottom = __reduce_max_sync(kAllLanes, bottom);
  left = __reduce_min_sync(kAllLanes, left);
  right = __reduce_max_sync(kAllLanes, right);
  if (threadIdx.x % kWarp != 0) return;
  const TileReach none = {0, 0, 0, 0};
  reaches[position] = bottom < 0 ? none
                                 : TileReach{top / tile_rows, bottom / tile_rows + 1,
                                             left / kTileColumns, right / kTileColumns + 1};
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    TilesKernel(MaxUnpoolParameters parameters, const T* __restrict__ x,
                const int32_t* __restrict__ argmax, const int32_t* __restrict__ overlaps,
                const TileReach* __restrict__ reaches, T* __restrict__ map, unsigned tile_rows,
                unsigned tile_columns, unsigned chunks) {
  using F = AccumulatorOf<T>;
  constexpr int kTileRows = kTileRowsOf<F>, kTileCells = kTileRows * kTileColumns;
  __shared__ F sums[kTileCells][kTileThreads];
  unsigned tile = blockIdx.x;
  const unsigned tile_column = tile % tile_columns;
  tile /= tile_columns;
  const unsigned tile_row = tile % tile_rows;
  tile /= tile_rows;
  const int64_t image = tile / chunks;
  if (!overlaps[image]) return;
  const int64_t channels = parameters.channels, positions = parameters.Positions();
  const int64_t channel = int64_t{tile % chunks} * kTileThreads + threadIdx.x;
  const int64_t first_y = int64_t{tile_row} * kTileRows;
  const int64_t first_x = int64_t{tile_column} * kTileColumns;
  const unsigned width = static_cast<unsigned>(parameters.width);
#pragma unroll
  for (int cell = 0; cell < kTileCells; ++cell) sums[cell][threadIdx.x] = F(0);
  VisitNearBoxes<kTileThreads>(
      positions,
      [&](int64_t position) {
        return reaches[image * positions + position].Holds(tile_row, tile_column);
      },
      [&](int64_t first, const int32_t* list, int listed) {
        if (channel >= channels) return;
#pragma unroll 4
        for (int i = 0; i < listed; ++i) {
          const int64_t at = (image * positions + first + list[i]) * channels + channel;
          const int32_t cell = argmax[at];
          // One off the map is a row far off.
          const unsigned y = static_cast<unsigned>(cell) / width;
          const unsigned row = y - static_cast<unsigned>(first_y);
          const unsigned column =
              static_cast<unsigned>(cell) - y * width - static_cast<unsigned>(first_x);
          if (cell >= 0 && row < kTileRows && column < kTileColumns) {
            sums[row * kTileColumns + column][threadIdx.x] += ToFloat(x[at]);
          }
        }
      });
  if (channel >= channels) return;
  T* const to = map + image * parameters.Cells() * channels + channel;
  for (int cell = 0; cell < kTileCells; ++cell) {
    const int64_t y = first_y + cell / kTileColumns, column = first_x + cell % kTileColumns;
    if (y < parameters.height && column < parameters.width) {
      to[(y * parameters.width + column) * channels] = FromFloat<T>(sums[cell][threadIdx.x]);
    }
  }
}

// Its transpose ----------------------------------------------------------------------------------

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    GatherKernel(MaxUnpoolParameters parameters, const T* __restrict__ map,
                 const int32_t* __restrict__ argmax, T* __restrict__ x_gradient,
                 unsigned blocks_in_image) {
  const int64_t channels = parameters.channels, size = parameters.Positions() * channels;
  const int64_t image = blockIdx.x / blocks_in_image;
  const int64_t in_image =
      (int64_t{blockIdx.x % blocks_in_image} * kPackThreads + threadIdx.x) * kPack;
  if (in_image >= size) return;
  const Pack<int32_t, kPack> cells = LoadPack<kPack>(argmax + image * size + in_image);
  const T* const own = map + image * parameters.Cells() * channels + in_image % channels;
  Pack<T, kPack> values;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const int32_t cell = cells.values[k];
    values.values[k] = cell >= 0 && cell < parameters.Cells() ? own[cell * channels + k] : T{};
  }
  StorePack<kPack>(values, x_gradient + image * size + in_image);
}

// A mark an image lies before the reaches, in whole reaches.
int64_t MarkBytes(const MaxUnpoolParameters& parameters) {
  constexpr int64_t kReach = sizeof(TileReach);
  const auto bytes = parameters.batch * static_cast<int64_t>(sizeof(int32_t));
  return (bytes + kReach - 1) / kReach * kReach;
}

}  // namespace

int64_t MaxUnpoolCudaWorkspace(const MaxUnpoolParameters& parameters) {
  return MarkBytes(parameters) +
         parameters.batch * parameters.Positions() * static_cast<int64_t>(sizeof(TileReach));
}

template <typename T>
const char* MaxUnpoolCuda(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax,
                          T* map, void* workspace, void* stream) {
  const int64_t batch = parameters.batch, channels = parameters.channels;
  if (batch * parameters.Cells() * channels == 0) return nullptr;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (parameters.Positions() == 0) {
    cudaMemsetAsync(map, 0, batch * parameters.Cells() * channels * sizeof(T), cuda_stream);
    return LastCudaError();
  }
  int32_t* const overlaps = static_cast<int32_t*>(workspace);
  TileReach* const reaches =
      reinterpret_cast<TileReach*>(static_cast<char*>(workspace) + MarkBytes(parameters));
  cudaMemsetAsync(overlaps, parameters.HaveBlocks() ? 0 : 1, MarkBytes(parameters), cuda_stream);
  if (parameters.HaveBlocks()) {
    const auto launch = [&](auto kernel, int pack) {
      const unsigned blocks = BlocksFor(parameters.width * (channels / pack), kPackThreads);
      kernel<<<BlocksFor(batch * parameters.height * blocks, 1), kPackThreads, 0, cuda_stream>>>(
          parameters, x, argmax, map, overlaps, blocks,
          MaxUnpoolBlock(parameters.height, parameters.output_height),
          MaxUnpoolBlock(parameters.width, parameters.output_width));
    };
    if (Packs<kFullPack<T>>(channels, x, argmax, map)) {
      launch(BlocksKernel<T, kFullPack<T>>, kFullPack<T>);
    } else {
      launch(BlocksKernel<T, 1>, 1);
    }
  }
  constexpr int kTileRows = kTileRowsOf<AccumulatorOf<T>>;
  const int64_t positions = batch * parameters.Positions();
  ReachKernel<<<BlocksFor(positions, kPackThreads / kWarp), kPackThreads, 0, cuda_stream>>>(
      parameters, argmax, overlaps, reaches, kTileRows, positions);
  const unsigned rows = BlocksFor(parameters.height, kTileRows);
  const unsigned columns = BlocksFor(parameters.width, kTileColumns);
  const unsigned chunks = BlocksFor(channels, kTileThreads);
  TilesKernel<T><<<BlocksFor(batch * chunks * rows * columns, 1), kTileThreads, 0, cuda_stream>>>(
      parameters, x, argmax, overlaps, reaches, map, rows, columns, chunks);
  return LastCudaError();
}

template <typename T>
const char* MaxUnpoolGradientCuda(const MaxUnpoolParameters& parameters, const T* map,
                                  const int32_t* argmax, T* x_gradient, void* stream) {
  const int64_t size = parameters.Positions() * parameters.channels;
  if (parameters.batch * size == 0) return nullptr;
  const auto launch = [&](auto kernel, int pack) {
    const unsigned blocks = BlocksFor(size, int64_t{kPackThreads} * pack);
    kernel<<<BlocksFor(parameters.batch * blocks, 1), kPackThreads, 0,
             static_cast<cudaStream_t>(stream)>>>(parameters, map, argmax, x_gradient, blocks);
  };
  if (Packs<kFullPack<T>>(parameters.channels, argmax, x_gradient)) {
    launch(GatherKernel<T, kFullPack<T>>, kFullPack<T>);
  } else {
    launch(GatherKernel<T, 1>, 1);
  }
  return LastCudaError();
}

#define KVISION_MAX_UNPOOL(T)                                                                     \
  template const char* MaxUnpoolCuda<T>(const MaxUnpoolParameters&, const T*, const int32_t*, T*, \
                                        void*, void*);                                            \
  template const char* MaxUnpoolGradientCuda<T>(const MaxUnpoolParameters&, const T*,             \
                                                const int32_t*, T*, void*);
KVISION_MAX_UNPOOL(Half)
KVISION_MAX_UNPOOL(BFloat16)
KVISION_MAX_UNPOOL(float)
KVISION_MAX_UNPOOL(double)
#undef KVISION_MAX_UNPOOL

}  // namespace kvision
