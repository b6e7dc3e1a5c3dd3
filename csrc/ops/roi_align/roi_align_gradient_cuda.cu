// A block owns a tile of the map for some channels next to one another, and gathers what the bins
// that read it give: no atomic additions, so that the sums have one order. Blocks run in the order
// of these channels within an image, whose bins are then read from the cache again.
#include <algorithm>
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/launch.cuh"
#include "common/listed_boxes.cuh"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"
#include "ops/roi_align/roi_align_samples.cuh"

namespace kvision {
namespace {

// A warp owns a column of a tile, for as many packs of channels as it has lanes.
constexpr int kThreads = 256;
constexpr int kTileRows = 8;
constexpr int kTileColumns = kThreads / kWarp;
constexpr int kBatch = 8;   // boxes whose weights are in shared memory at once
constexpr int kWindow = 8;  // bins of an axis, likewise

// The tiles of the maps of a level, after those of the levels before it.
struct TilesOfLevel {
  unsigned first_block;
  int32_t first_row;  // of tiles
  int32_t rows, columns;
};
template <typename T>
struct TiledLevels {
  RoiAlignLevel<T> list[kRoiAlignMaxLevels];
  TilesOfLevel tiles[kRoiAlignMaxLevels];
  int number;
};

// The tiles that a box reads along one axis: [*first, *end).
template <typename F>
__device__ inline void ReachOfAxis(const RoiAlignAxis<F>& axis, int64_t bins, int tile,
                                   int32_t* first, int32_t* end) {
  const F stop = axis.BinStart(bins), limit = static_cast<F>(axis.size - 1);
  const F low = floor(fmin(axis.start, stop)) - F(2), high = ceil(fmax(axis.start, stop)) + F(2);
  *first = *end = 0;
  if (axis.size == 0 || high < F(0) || low > limit) return;
  *first = static_cast<int32_t>(static_cast<int64_t>(fmax(low, F(0))) / tile);
  *end =
      static_cast<int32_t>(min(static_cast<int64_t>(fmin(high, limit)), axis.size - 1) / tile) + 1;
}

template <typename T>
__global__ void ReachKernel(RoiAlignParameters parameters, TiledLevels<T> levels,
                            const AccumulatorOf<T>* __restrict__ boxes,
                            const int32_t* __restrict__ box_levels,
                            TileReach* __restrict__ reaches) {
  const int64_t box = ThreadInGrid();
  if (box >= parameters.batch * parameters.num_boxes) return;
  TileReach reach = {};
  const int32_t index = box_levels[box];
  if (index >= 0 && index < levels.number) {
    const RoiAlignLevel<T>& level = levels.list[index];
    const auto grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale, level.height,
                                       level.width, parameters);
    if (grid.valid) {
      ReachOfAxis(grid.rows, parameters.output_height, kTileRows, &reach.first_row, &reach.end_row);
      ReachOfAxis(grid.columns, parameters.output_width, kTileColumns, &reach.first_column,
                  &reach.end_column);
      reach.first_row += levels.tiles[index].first_row;
      reach.end_row += levels.tiles[index].first_row;
    }
  }
  reaches[box] = reach;
}

// The bins, in order, whose samples may read one of the cells [first_cell, last_cell]: [first,
// end).
struct BinRange {
  int64_t first, end;
};

template <typename F>
__device__ inline BinRange BinsNear(const RoiAlignAxis<F>& axis, int64_t first_cell,
                                    int64_t last_cell, int64_t bins) {
  if (!(axis.bin_extent > F(0))) return {0, bins};
  const F last = static_cast<F>(bins);
  const F first = floor((static_cast<F>(first_cell) - F(1) - axis.start) / axis.bin_extent - F(1));
  const F end = ceil((static_cast<F>(last_cell) + F(1) - axis.start) / axis.bin_extent + F(1));
  return {static_cast<int64_t>(fmin(fmax(first, F(0)), last)),
          static_cast<int64_t>(fmin(fmax(end, F(0)), last))};
}

// Finds what each of some cells takes from a bin along one axis. Returns whether any takes
// anything.
template <typename F>
__device__ inline bool FindWeights(const RoiAlignAxis<F>& axis, int64_t bin, int64_t first_cell,
                                   int cells, bool adaptive, F* weights) {
#pragma unroll 1
  for (int cell = 0; cell < cells; ++cell) weights[cell] = F(0);
  const F bin_start = axis.BinStart(bin);
  const RoiAlignSamples<F> samples = axis.SamplesBetween(
      bin_start, static_cast<F>(first_cell) - F(1), static_cast<F>(first_cell + cells), adaptive);
  ForSamples(axis, bin_start, samples, [&](int64_t cell, F weight) {
    const uint64_t place = static_cast<uint64_t>(cell - first_cell);
    if (place < static_cast<unsigned>(cells)) weights[place] += weight;
  });
  bool reads = false;
#pragma unroll 1
  for (int cell = 0; cell < cells; ++cell) reads |= weights[cell] != F(0);
  return reads;
}

// Some boxes of a tile.
template <typename F>
struct Batch {
  // Of columns [0] and of rows [1]: the first bin of the window, and a bit for each that is read.
  // Bin rows are counted through all boxes.
  int64_t first[2][kBatch];
  unsigned read[2][kBatch];
  alignas(sizeof(F) * kTileRows) F row_weights[kBatch][kWindow][kTileRows];
  F column_weights[kBatch][kWindow][kTileColumns];
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 3)
    BackwardKernel(const __grid_constant__ RoiAlignParameters parameters,
                   const T* __restrict__ output_gradient,
                   const AccumulatorOf<T>* __restrict__ boxes,
                   const TileReach* __restrict__ reaches,
                   const __grid_constant__ TiledLevels<T> levels, unsigned chunks) {
  using F = AccumulatorOf<T>;
  __shared__ Batch<F> batch;
  int index = levels.number - 1;
  while (levels.tiles[index].first_block > blockIdx.x) --index;
  const RoiAlignLevel<T>& level = levels.list[index];
  const TilesOfLevel& tiles = levels.tiles[index];
  const unsigned tile_rows = tiles.rows, tile_columns = tiles.columns;
  unsigned tile = blockIdx.x - tiles.first_block;
  const unsigned tile_column = tile % tile_columns;
  tile /= tile_columns;
  const unsigned tile_row = tile % tile_rows;
  tile /= tile_rows;
  const unsigned image = tile / chunks;
  const int own_column = threadIdx.x / kWarp;
  const unsigned channel = (tile % chunks * kWarp + threadIdx.x % kWarp) * kPack;
  const bool has_channels = channel < parameters.channels;
  const int64_t first_y = int64_t{tile_row} * kTileRows,
                first_x = int64_t{tile_column} * kTileColumns;
  const int64_t first_box = int64_t{image} * parameters.num_boxes;
  const int64_t &height = parameters.output_height, &width = parameters.output_width;
  const bool adaptive = parameters.sampling_ratio == 0;

  F sums[kTileRows][kPack] = {};
  const auto is_near = [&](int64_t box) {
    return reaches[first_box + box].Holds(tiles.first_row + tile_row, tile_column);
  };
  // Finds the weights of one window of bins of each box; returns what is behind it: 1 bit for rows,
  // 2 for columns.
  const auto find_window = [&](int64_t first_listed, const int32_t* list, int number,
                               int row_window, int column_window) {
    static_assert(kBatch * 2 * kWindow <= kThreads && kWarp % (2 * kWindow) == 0);
    const int k = threadIdx.x / (2 * kWindow), place = threadIdx.x % kWindow;
    const bool of_rows = threadIdx.x % (2 * kWindow) < kWindow;
    bool reads = false, more = false;
    if (k < number) {
      const int64_t box = first_box + first_listed + list[k];
      const RoiAlignGrid<F> grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale,
                                                    level.height, level.width, parameters);
      const RoiAlignAxis<F> axis = of_rows ? grid.rows : grid.columns;
      const int64_t first_cell = of_rows ? first_y : first_x;
      const int cells = of_rows ? kTileRows : kTileColumns;
      const BinRange near =
          BinsNear(axis, first_cell, first_cell + cells - 1, of_rows ? height : width);
      const int64_t first = near.first + int64_t{of_rows ? row_window : column_window} * kWindow;
      if (first + place < near.end) {
        F* const weights = of_rows ? batch.row_weights[k][place] : batch.column_weights[k][place];
        reads = FindWeights(axis, first + place, first_cell, cells, adaptive, weights);
      }
      more = first + kWindow < near.end;
      if (place == 0) batch.first[of_rows][k] = of_rows ? box * height + first : first;
    }
    const unsigned votes = __ballot_sync(kAllLanes, reads) >> (threadIdx.x % kWarp - place);
    if (k < number && place == 0) batch.read[of_rows][k] = votes & ((1u << kWindow) - 1);
    if (!__syncthreads_or(more)) return 0;
    return (__syncthreads_or(more && of_rows) ? 1 : 0) |
           (__syncthreads_or(more && !of_rows) ? 2 : 0);
  };
  const auto add_window = [&](int number) {
    if (!has_channels) return;
    for (int k = 0; k < number; ++k) {
      const auto& column_weights = batch.column_weights[k];
      unsigned columns = 0;
      for (unsigned left = batch.read[0][k]; left != 0; left &= left - 1) {
        const int column = __ffs(left) - 1;
        if (column_weights[column][own_column] != F(0)) columns |= 1u << column;
      }
      if (columns == 0) continue;
      const T* from = output_gradient +
                      (batch.first[1][k] * width + batch.first[0][k]) * parameters.channels +
                      channel;
      for (unsigned rows = batch.read[1][k]; rows != 0; rows &= rows - 1) {
        const int row = __ffs(rows) - 1;
        F line[kPack] = {};
        for (unsigned left = columns; left != 0; left &= left - 1) {
          const int column = __ffs(left) - 1;
          AddScaled<kPack>(from + (row * width + column) * parameters.channels,
                           column_weights[column][own_column], line);
        }
        const auto weights = LoadPack<kTileRows>(batch.row_weights[k][row]);
#pragma unroll
        for (int y = 0; y < kTileRows; ++y) {
          if (weights.values[y] != F(0)) {
#pragma unroll
            for (int c = 0; c < kPack; ++c) sums[y][c] += weights.values[y] * line[c];
          }
        }
      }
    }
  };
  VisitNearBoxes<kThreads>(
      parameters.num_boxes, is_near, [&](int64_t first, const int32_t* list, int listed) {
        for (int start = 0; start < listed; start += kBatch) {
          const int number = min(kBatch, listed - start);
          int more_rows = 1;
          for (int row_window = 0; more_rows; ++row_window) {
            int more_columns = 1;
            for (int column_window = 0; more_columns; ++column_window) {
              const int more = find_window(first, list + start, number, row_window, column_window);
              more_rows = more & 1;
              more_columns = more & 2;
              add_window(number);
              __syncthreads();
            }
          }
        }
      });
  const int64_t x = first_x + own_column;
  if (!has_channels || x >= level.width) return;
#pragma unroll
  for (int y = 0; y < kTileRows; ++y) {
    if (first_y + y < level.height) {
      StoreSums<kPack>(sums[y],
                       level.data +
                           ((int64_t{image} * level.height + first_y + y) * level.width + x) *
                               parameters.channels +
                           channel);
    }
  }
}

}  // namespace

int64_t RoiAlignBackwardCudaWorkspace(const RoiAlignParameters& parameters) {
  return parameters.batch * parameters.num_boxes * static_cast<int64_t>(sizeof(TileReach));
}

template <typename T>
const char* RoiAlignBackwardCuda(const RoiAlignParameters& parameters, const T* output_gradient,
                                 const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                                 Span<const RoiAlignLevel<T>> level_gradients, void* workspace,
                                 void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t num_boxes = parameters.batch * parameters.num_boxes;
  TileReach* const reaches = static_cast<TileReach*>(workspace);
  const bool packs = std::all_of(
      level_gradients.begin(), level_gradients.end(), [&](const RoiAlignLevel<T>& level) {
        return Packs<kFullPack<T>>(parameters.channels, output_gradient, level.data);
      });
  const unsigned chunks = BlocksFor(parameters.channels, kWarp * (packs ? kFullPack<T> : 1));
  TiledLevels<T> levels = {};
  levels.number = static_cast<int>(level_gradients.size);
  unsigned blocks = 0;
  int32_t rows = 0;
  for (int index = 0; index < levels.number; ++index) {
    const RoiAlignLevel<T>& level = level_gradients[index];
    levels.list[index] = level;
    const TilesOfLevel tiles = {blocks, rows,
                                static_cast<int32_t>(BlocksFor(level.height, kTileRows)),
                                static_cast<int32_t>(BlocksFor(level.width, kTileColumns))};
    levels.tiles[index] = tiles;
    blocks += BlocksFor(parameters.batch * chunks * tiles.rows * tiles.columns, 1);
    rows += tiles.rows;
  }
  if (blocks == 0) return nullptr;
  if (num_boxes > 0) {
    ReachKernel<T><<<BlocksFor(num_boxes, kPackThreads), kPackThreads, 0, cuda_stream>>>(
        parameters, levels, boxes, box_levels, reaches);
  }
  const auto kernel = packs ? BackwardKernel<T, kFullPack<T>> : BackwardKernel<T, 1>;
  kernel<<<blocks, kThreads, 0, cuda_stream>>>(parameters, output_gradient, boxes, reaches, levels,
                                               chunks);
  return LastCudaError();
}

#define KVISION_ROI_ALIGN(T)                                                          \
  template const char* RoiAlignBackwardCuda<T>(const RoiAlignParameters&, const T*,   \
                                               const RoiAlignBox<T>*, const int32_t*, \
                                               Span<const RoiAlignLevel<T>>, void*, void*);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
