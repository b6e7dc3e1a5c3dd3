// Each thread owns its output: kPack channels of a bin going forward, of a cell of the map going
// back. So there are no atomic additions, and the sums have one order. Threads next to one another
// own channels next to one another, so that loads are coalesced.
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "common/listed_boxes.cuh"
#include "ops/roi_pool/roi_pool.h"
#include "ops/roi_pool/roi_pool_bins.h"

namespace kvision {
namespace {

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    ForwardKernel(RoiPoolParameters parameters, const T* __restrict__ features,
                  const RoiPoolBox<T>* __restrict__ boxes, T* __restrict__ output,
                  int32_t* __restrict__ argmax, int64_t total) {
  using F = RoiPoolBox<T>;
  const int64_t channels = parameters.channels, packs = channels / kPack;
  const int64_t index = ThreadInGrid();
  if (index >= total) return;
  const int64_t channel = index % packs * kPack;
  const int64_t bin = index / packs;
  const int64_t box = bin / (parameters.output_width * parameters.output_height);
  const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
  const RoiPoolCells rows =
      grid.rows.CellsOf(bin / parameters.output_width % parameters.output_height);
  const RoiPoolCells columns = grid.columns.CellsOf(bin % parameters.output_width);
  const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
  const int64_t first = empty ? -1 : rows.begin * parameters.width + columns.begin;
  const T* map = features + box / parameters.num_boxes * parameters.Cells() * channels + channel;
  Pack<T, kPack> best = {};
  Pack<int32_t, kPack> cells;
  F best_values[kPack];
  if (!empty) best = LoadPack<kPack>(map + first * channels);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    cells.values[k] = static_cast<int32_t>(first);
    best_values[k] = -INFINITY;
  }
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    for (int64_t x = columns.begin; x < columns.end; ++x) {
      const int64_t cell = y * parameters.width + x;
      const Pack<T, kPack> values = LoadPack<kPack>(map + cell * channels);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const F value = ToFloat(values.values[k]);
        if (value > best_values[k]) {
          best_values[k] = value;
          best.values[k] = values.values[k];
          cells.values[k] = static_cast<int32_t>(cell);
        }
      }
    }
  }
  StorePack<kPack>(best, output + bin * channels + channel);
  StorePack<kPack>(cells, argmax + bin * channels + channel);
}

// A tile of cells of the map, which a block owns for some packs of channels going back.
constexpr int kBackwardThreads = 256;
constexpr int kLanes = 16;  // packs of channels
constexpr int kTileSide = 4;
static_assert(kTileSide * kTileSide * kLanes == kBackwardThreads);

// The tiles between the first cell of the first bin of an axis and the last of the last.
template <typename F>
__device__ inline void ReachOfAxis(const RoiPoolAxis<F>& axis, int64_t bins, int32_t* first,
                                   int32_t* end) {
  const int64_t begin = axis.CellsOf(0).begin, stop = axis.CellsOf(bins - 1).end;
  *first = static_cast<int32_t>(begin / kTileSide);
  *end = begin < stop ? static_cast<int32_t>((stop - 1) / kTileSide + 1) : *first;
}

template <typename F>
__global__ void ReachKernel(RoiPoolParameters parameters, const F* __restrict__ boxes,
                            TileReach* __restrict__ reaches, int64_t total) {
  const int64_t box = ThreadInGrid();
  if (box >= total) return;
  const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
  TileReach reach;
  ReachOfAxis(grid.rows, parameters.output_height, &reach.first_row, &reach.end_row);
  ReachOfAxis(grid.columns, parameters.output_width, &reach.first_column, &reach.end_column);
  reaches[box] = reach;
}

// The bins, in order, that may cover a cell: [first, end).
struct BinRange {
  int64_t first, end;
};

template <typename F>
__device__ inline BinRange BinsNear(const RoiPoolAxis<F>& axis, int64_t cell, int64_t bins) {
  const F offset = static_cast<F>(cell) - axis.start, last = static_cast<F>(bins);
  const F first = floor(offset / axis.bin_extent - F(2));
  const F end = ceil((offset + F(1)) / axis.bin_extent + F(2));
  return {static_cast<int64_t>(fmin(fmax(first, F(0)), last)),
          static_cast<int64_t>(fmin(fmax(end, F(0)), last))};
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kBackwardThreads, 2)
    BackwardKernel(RoiPoolParameters parameters, const T* __restrict__ output_gradient,
                   const int32_t* __restrict__ argmax, const RoiPoolBox<T>* __restrict__ boxes,
                   const TileReach* __restrict__ reaches, T* __restrict__ feature_gradient,
                   unsigned tile_rows, unsigned tile_columns, unsigned chunks) {
  using F = RoiPoolBox<T>;
  const int64_t channels = parameters.channels;
  unsigned tile = blockIdx.x;
  const unsigned tile_column = tile % tile_columns;
  tile /= tile_columns;
  const unsigned tile_row = tile % tile_rows;
  tile /= tile_rows;
  const int64_t image = tile / chunks;
  const int64_t channel = (int64_t{tile % chunks} * kLanes + threadIdx.x % kLanes) * kPack;
  const int own = threadIdx.x / kLanes;
  const int64_t y = int64_t{tile_row} * kTileSide + own / kTileSide;
  const int64_t x = int64_t{tile_column} * kTileSide + own % kTileSide;
  const bool owns = channel < channels && y < parameters.height && x < parameters.width;
  const int64_t cell = y * parameters.width + x;
  const int64_t first_box = image * parameters.num_boxes;
  F sums[kPack] = {};
  const auto add_box = [&](int64_t box) {
    const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
    const BinRange rows = BinsNear(grid.rows, y, parameters.output_height);
    const BinRange columns = BinsNear(grid.columns, x, parameters.output_width);
    for (int64_t row = rows.first; row < rows.end; ++row) {
      const RoiPoolCells covered = grid.rows.CellsOf(row);
      if (y < covered.begin || y >= covered.end) continue;
      for (int64_t column = columns.first; column < columns.end; ++column) {
        const RoiPoolCells covered = grid.columns.CellsOf(column);
        if (x < covered.begin || x >= covered.end) continue;
        const int64_t bin =
            (box * parameters.output_height + row) * parameters.output_width + column;
        const auto cells = LoadPack<kPack>(argmax + bin * channels + channel);
        const auto values = LoadPack<kPack>(output_gradient + bin * channels + channel);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          if (cells.values[k] == cell) sums[k] += ToFloat(values.values[k]);
        }
      }
    }
  };
  VisitNearBoxes<kBackwardThreads>(
      parameters.num_boxes,
      [&](int64_t box) { return reaches[first_box + box].Holds(tile_row, tile_column); },
      [&](const int64_t* list, int listed) {
        for (int i = 0; i < listed && owns; ++i) add_box(first_box + list[i]);
      });
  if (!owns) return;
  Pack<T, kPack> result;
#pragma unroll
  for (int k = 0; k < kPack; ++k) result.values[k] = FromFloat<T>(sums[k]);
  StorePack<kPack>(result,
                   feature_gradient + (image * parameters.Cells() + cell) * channels + channel);
}

}  // namespace

template <typename T>
const char* RoiPoolForwardCuda(const RoiPoolParameters& parameters, const T* features,
                               const RoiPoolBox<T>* boxes, T* output, int32_t* argmax,
                               void* stream) {
  const int64_t total = parameters.batch * parameters.Bins() * parameters.channels;
  if (total == 0) return nullptr;
  const auto launch = [&](auto kernel, int64_t threads) {
    kernel<<<BlocksFor(threads, kPackThreads), kPackThreads, 0,
             static_cast<cudaStream_t>(stream)>>>(parameters, features, boxes, output, argmax,
                                                  threads);
  };
  if (Packs<kFullPack<T>>(parameters.channels, features, output, argmax)) {
    launch(ForwardKernel<T, kFullPack<T>>, total / kFullPack<T>);
  } else {
    launch(ForwardKernel<T, 1>, total);
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
  const auto launch = [&](auto kernel, int pack) {
    const unsigned rows = BlocksFor(parameters.height, kTileSide);
    const unsigned columns = BlocksFor(parameters.width, kTileSide);
    const unsigned chunks = BlocksFor(parameters.channels, kLanes * pack);
    kernel<<<BlocksFor(parameters.batch * chunks * rows * columns, 1), kBackwardThreads, 0,
             cuda_stream>>>(parameters, output_gradient, argmax, boxes, reaches, feature_gradient,
                            rows, columns, chunks);
  };
  if (Packs<kFullPack<T>>(parameters.channels, output_gradient, feature_gradient, argmax)) {
    launch(BackwardKernel<T, kFullPack<T>>, kFullPack<T>);
  } else {
    launch(BackwardKernel<T, 1>, 1);
  }
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
