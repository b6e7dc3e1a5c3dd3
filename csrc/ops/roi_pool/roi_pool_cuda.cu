// Each thread owns its output: kPack channels of a bin going forward, a channel of a tile of the
// map going back. So there are no atomic additions, and the sums have one order. Threads next to
// one another own channels next to one another, so that loads are coalesced.
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "common/listed_boxes.cuh"
#include "ops/roi_pool/roi_pool.h"
#include "ops/roi_pool/roi_pool_bins.h"

namespace kvision {
namespace {

// Going forward a block owns the bins of a box for some packs of channels, `lanes` threads a bin.
// Blocks run in the order of these channels within an image, whose map is then read from the cache
// again.
template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    ForwardKernel(RoiPoolParameters parameters, const T* __restrict__ features,
                  const RoiPoolBox<T>* __restrict__ boxes, T* __restrict__ output,
                  int32_t* __restrict__ argmax, unsigned lanes, unsigned chunks) {
  using F = RoiPoolBox<T>;
  __shared__ RoiPoolGrid<F> grid;
  const int64_t channels = parameters.channels;
  const unsigned num_boxes = static_cast<unsigned>(parameters.num_boxes);
  const int64_t image = blockIdx.x / num_boxes / chunks;
  const int64_t box = image * num_boxes + blockIdx.x % num_boxes;
  const int64_t pack = int64_t{blockIdx.x / num_boxes % chunks} * lanes + threadIdx.x % lanes;
  if (threadIdx.x == 0) grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
  __syncthreads();
  if (pack * kPack >= channels) return;
  const int width = static_cast<int>(parameters.width);
  const int64_t box_bins = parameters.output_height * parameters.output_width;
  const T* const map = features + image * parameters.Cells() * channels + pack * kPack;
  const int64_t offset = box * box_bins * channels + pack * kPack;
  for (int64_t bin = threadIdx.x / lanes; bin < box_bins; bin += kPackThreads / lanes) {
    const RoiPoolCells rows = grid.rows.CellsOf(bin / parameters.output_width);
    const RoiPoolCells columns = grid.columns.CellsOf(bin % parameters.output_width);
    const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
    const int64_t first = empty ? -1 : rows.begin * width + columns.begin;
    Pack<T, kPack> best = {};
    Pack<int32_t, kPack> cells;
    F best_values[kPack];
    if (!empty) best = LoadPack<kPack>(map + first * channels);
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      cells.values[k] = static_cast<int32_t>(first);
      best_values[k] = -INFINITY;
    }
    const int columns_of_bin = static_cast<int>(columns.end - columns.begin);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const int32_t row_start = static_cast<int32_t>(y * width + columns.begin);
      const T* from = map + row_start * channels;
#pragma unroll 4
      for (int x = 0; x < columns_of_bin; ++x) {
        const Pack<T, kPack> values = LoadPack<kPack>(from + x * channels);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const F value = ToFloat(values.values[k]);
          if (value > best_values[k]) {
            best_values[k] = value;
            best.values[k] = values.values[k];
            cells.values[k] = row_start + x;
          }
        }
      }
    }
    StorePack<kPack>(best, output + offset + bin * channels);
    StorePack<kPack>(cells, argmax + offset + bin * channels);
  }
}

// Going back a block owns a tile of the map for some channels, a thread one channel of it.
constexpr int kBackwardThreads = 64;
template <typename F>
constexpr int kTileRowsOf = sizeof(F) == 8 ? 4 : 8;
constexpr int kTileColumns = 8;

// The tiles between the first cell of the first bin of an axis and the last of the last.
template <typename F>
__device__ inline void ReachOfAxis(const RoiPoolAxis<F>& axis, int64_t bins, int tile,
                                   int32_t* first, int32_t* end) {
  const int64_t begin = axis.CellsOf(0).begin, stop = axis.CellsOf(bins - 1).end;
  *first = static_cast<int32_t>(begin / tile);
  *end = begin < stop ? static_cast<int32_t>((stop - 1) / tile + 1) : *first;
}

template <typename F>
__global__ void ReachKernel(RoiPoolParameters parameters, const F* __restrict__ boxes,
                            TileReach* __restrict__ reaches, int64_t total) {
  const int64_t box = ThreadInGrid();
  if (box >= total) return;
  const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
  TileReach reach;
  ReachOfAxis(grid.rows, parameters.output_height, kTileRowsOf<F>, &reach.first_row,
              &reach.end_row);
  ReachOfAxis(grid.columns, parameters.output_width, kTileColumns, &reach.first_column,
              &reach.end_column);
  reaches[box] = reach;
}

// Bins of one axis: [first, end).
struct BinRange {
  int64_t first, end;
};

// Those that cover cells of a tile, which are next to one another.
template <typename F>
__device__ inline BinRange BinsOfTile(const RoiPoolAxis<F>& axis, int64_t first_cell, int cells,
                                      int64_t bins) {
  const F offset = static_cast<F>(first_cell) - axis.start, last = static_cast<F>(bins);
  const F first = floor(offset / axis.bin_extent - F(2));
  const F end = ceil((offset + static_cast<F>(cells)) / axis.bin_extent + F(2));
  BinRange range = {static_cast<int64_t>(fmin(fmax(first, F(0)), last)),
                    static_cast<int64_t>(fmin(fmax(end, F(0)), last))};
  while (range.first < range.end && axis.CellsOf(range.first).end <= first_cell) ++range.first;
  while (range.first < range.end && axis.CellsOf(range.end - 1).begin >= first_cell + cells) {
    --range.end;
  }
  return range;
}

// The bins that read a tile are gone through in their order, each thread adding what is its own to
// its cells in shared memory.
template <typename T>
__global__ void __launch_bounds__(kBackwardThreads)
    BackwardKernel(RoiPoolParameters parameters, const T* __restrict__ output_gradient,
                   const int32_t* __restrict__ argmax, const RoiPoolBox<T>* __restrict__ boxes,
                   const TileReach* __restrict__ reaches, T* __restrict__ feature_gradient,
                   unsigned tile_rows, unsigned tile_columns, unsigned chunks) {
  using F = RoiPoolBox<T>;
  constexpr int kBinsAtOnce = 4;
  constexpr int kTileRows = kTileRowsOf<F>, kTileCells = kTileRows * kTileColumns;
  __shared__ F sums[kTileCells][kBackwardThreads];
  __shared__ int64_t box_of[kBackwardThreads];
  __shared__ BinRange rows_of[kBackwardThreads], columns_of[kBackwardThreads];
  const int64_t channels = parameters.channels;
  const int64_t height = parameters.output_height, width = parameters.output_width;
  unsigned tile = blockIdx.x;
  const unsigned tile_column = tile % tile_columns;
  tile /= tile_columns;
  const unsigned tile_row = tile % tile_rows;
  tile /= tile_rows;
  const int64_t image = tile / chunks;
  const int64_t channel = int64_t{tile % chunks} * kBackwardThreads + threadIdx.x;
  const int64_t first_y = int64_t{tile_row} * kTileRows;
  const int64_t first_x = int64_t{tile_column} * kTileColumns;
  const int64_t first_box = image * parameters.num_boxes;
  const unsigned map_width = static_cast<unsigned>(parameters.width);
#pragma unroll
  for (int cell = 0; cell < kTileCells; ++cell) sums[cell][threadIdx.x] = F(0);

  const auto add = [&](int32_t cell, T value) {
    // An argmax of -1 is a row far off.
    const unsigned y = static_cast<unsigned>(cell) / map_width;
    const unsigned x = static_cast<unsigned>(cell) - y * map_width;
    const unsigned row = y - static_cast<unsigned>(first_y);
    const unsigned column = x - static_cast<unsigned>(first_x);
    if (cell >= 0 && row < kTileRows && column < kTileColumns) {
      sums[row * kTileColumns + column][threadIdx.x] += ToFloat(value);
    }
  };
  const auto add_box = [&](int64_t box, const BinRange& rows, const BinRange& columns) {
    for (int64_t row = rows.first; row < rows.end; ++row) {
      const int64_t row_start = ((box * height + row) * width) * channels + channel;
      for (int64_t first = columns.first; first < columns.end; first += kBinsAtOnce) {
        const int64_t start = row_start + first * channels;
        int32_t cells[kBinsAtOnce];
        T values[kBinsAtOnce];
#pragma unroll
        for (int k = 0; k < kBinsAtOnce; ++k) {
          cells[k] = -1;
          if (first + k < columns.end) {
            cells[k] = argmax[start + k * channels];
            values[k] = output_gradient[start + k * channels];
          }
        }
#pragma unroll
        for (int k = 0; k < kBinsAtOnce; ++k) add(cells[k], values[k]);
      }
    }
  };
  VisitNearBoxes<kBackwardThreads>(
      parameters.num_boxes,
      [&](int64_t box) { return reaches[first_box + box].Holds(tile_row, tile_column); },
      [&](int64_t first_listed, const int32_t* list, int listed) {
        for (int first = 0; first < listed; first += kBackwardThreads) {
          const int number = min(kBackwardThreads, listed - first);
          __syncthreads();
          if (threadIdx.x < number) {
            const int64_t box = first_box + first_listed + list[first + threadIdx.x];
            const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
            box_of[threadIdx.x] = box;
            rows_of[threadIdx.x] = BinsOfTile(grid.rows, first_y, kTileRows, height);
            columns_of[threadIdx.x] = BinsOfTile(grid.columns, first_x, kTileColumns, width);
          }
          __syncthreads();
          if (channel >= channels) continue;
          for (int i = 0; i < number; ++i) add_box(box_of[i], rows_of[i], columns_of[i]);
        }
      });
  if (channel >= channels) return;
  T* to = feature_gradient + image * parameters.Cells() * channels + channel;
  for (int cell = 0; cell < kTileCells; ++cell) {
    const int64_t y = first_y + cell / kTileColumns, x = first_x + cell % kTileColumns;
    if (y < parameters.height && x < parameters.width) {
      to[(y * parameters.width + x) * channels] = FromFloat<T>(sums[cell][threadIdx.x]);
    }
  }
}

}  // namespace

template <typename T>
const char* RoiPoolForwardCuda(const RoiPoolParameters& parameters, const T* features,
                               const RoiPoolBox<T>* boxes, T* output, int32_t* argmax,
                               void* stream) {
  const int64_t total = parameters.batch * parameters.Bins() * parameters.channels;
  if (total == 0) return nullptr;
  const auto launch = [&](auto kernel, int pack) {
    const unsigned lanes = LanesFor(parameters.channels / pack);
    const unsigned chunks = BlocksFor(parameters.channels, int64_t{lanes} * pack);
    kernel<<<BlocksFor(parameters.batch * parameters.num_boxes * chunks, 1), kPackThreads, 0,
             static_cast<cudaStream_t>(stream)>>>(parameters, features, boxes, output, argmax,
                                                  lanes, chunks);
  };
  if (Packs<kFullPack<T>>(parameters.channels, features, output, argmax)) {
    launch(ForwardKernel<T, kFullPack<T>>, kFullPack<T>);
  } else {
    launch(ForwardKernel<T, 1>, 1);
  }
  return LastCudaError();
}

int64_t RoiPoolBackwardCudaWorkspace(const RoiPoolParameters& parameters) {
  return parameters.batch * parameters.num_boxes * static_cast<int64_t>(sizeof(TileReach));
}

template <typename T>
const char* RoiPoolBackwardCuda(const RoiPoolParameters& parameters, const T* output_gradient,
                                const int32_t* argmax, const RoiPoolBox<T>* boxes,
                                T* feature_gradient, void* workspace, void* stream) {
  const int64_t total = parameters.batch * parameters.Cells() * parameters.channels;
  if (total == 0) return nullptr;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t num_boxes = parameters.batch * parameters.num_boxes;
  TileReach* const reaches = static_cast<TileReach*>(workspace);
  if (num_boxes > 0) {
    ReachKernel<RoiPoolBox<T>>
        <<<BlocksFor(num_boxes, kPackThreads), kPackThreads, 0, cuda_stream>>>(parameters, boxes,
                                                                               reaches, num_boxes);
  }
  const unsigned rows = BlocksFor(parameters.height, kTileRowsOf<RoiPoolBox<T>>);
  const unsigned columns = BlocksFor(parameters.width, kTileColumns);
  const unsigned chunks = BlocksFor(parameters.channels, kBackwardThreads);
  BackwardKernel<T><<<BlocksFor(parameters.batch * chunks * rows * columns, 1), kBackwardThreads, 0,
                      cuda_stream>>>(parameters, output_gradient, argmax, boxes, reaches,
                                     feature_gradient, rows, columns, chunks);
  return LastCudaError();
}

#define KVISION_ROI_POOL(T)                                                                       \
  template const char* RoiPoolForwardCuda<T>(const RoiPoolParameters&, const T*,                  \
                                             const RoiPoolBox<T>*, T*, int32_t*, void*);          \
  template const char* RoiPoolBackwardCuda<T>(const RoiPoolParameters&, const T*, const int32_t*, \
                                              const RoiPoolBox<T>*, T*, void*, void*);
KVISION_ROI_POOL(Half)
KVISION_ROI_POOL(BFloat16)
KVISION_ROI_POOL(float)
KVISION_ROI_POOL(double)
#undef KVISION_ROI_POOL

}  // namespace kvision
