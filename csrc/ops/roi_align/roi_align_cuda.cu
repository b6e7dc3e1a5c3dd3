// No atomic additions, so that the sums have one order: going forward a block owns the bins of a
// box, going back a tile of the map, each for some packs of channels next to one another. Blocks
// run in the order of these channels within an image, whose map is then read from the cache again.
#include <algorithm>
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "common/listed_boxes.cuh"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"

namespace kvision {
namespace {

#ifndef FWD_LANES
#define FWD_LANES 16
#endif
#ifndef FWD_THREADS
#define FWD_THREADS 256
#endif
#ifndef FWD_BLOCKS
#define FWD_BLOCKS 3
#endif
#ifndef BWD_ROWS
#define BWD_ROWS 8
#endif
#ifndef BWD_BATCH
#define BWD_BATCH 8
#endif
#ifndef BWD_BLOCKS
#define BWD_BLOCKS 2
#endif
constexpr int kLanes = FWD_LANES;  // packs of channels of a block
constexpr int kForwardThreads = FWD_THREADS;

// 16 bytes, but for the half types going back, whose sums would take too many registers.
template <typename T>
constexpr int kForwardPack = 16 / sizeof(T);

// What has no weight is not read, so that a NaN there does not matter.
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

// Calls `add(cell, weight)` for what each sample of a bin reads along one axis.
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

// The taps of all bins along one axis, in shared memory; samples that read the same cell are
// merged.
template <typename F>
class AxisTaps {
 public:
  static constexpr int kMostTaps = 256;

  // How many taps a bin has room for.
  __device__ static int RoomOf(int64_t bins) {
    return bins > kMostTaps ? 0 : kMostTaps / static_cast<int>(bins);
  }

  // Returns whether the taps of the bin have room.
  __device__ bool Find(const RoiAlignAxis<F>& axis, int bin, int room, bool adaptive) {
    constexpr int kLookBack = 3;
    if (axis.size > INT32_MAX) return false;
    const int begin = bin * room;
    int number = 0;
    bool fits = true;
    const F bin_start = axis.BinStart(bin);
    const RoiAlignSamples<F> samples = axis.SamplesOnMap(bin_start, adaptive);
    // A sample may add two taps, and those of an adaptive grid share all but a few.
    if (adaptive && samples.number > room) return false;
    ForSamples(axis, bin_start, samples, [&](int64_t cell, F weight) {
      for (int i = number - 1; i >= 0 && i >= number - kLookBack; --i) {
        if (cells_[begin + i] == cell) {
          weights_[begin + i] += weight;
          return;
        }
      }
      fits = fits && number < room;
      if (!fits) return;
      cells_[begin + number] = static_cast<int32_t>(cell);
      weights_[begin + number++] = weight;
    });
    numbers_[bin] = number;
    return fits;
  }

  template <int kAtOnce, typename Add>
  __device__ void ForTaps(int bin, int room, const Add& add) const {
    const int begin = bin * room, end = begin + numbers_[bin];
#pragma unroll kAtOnce
    for (int i = begin; i < end; ++i) add(int64_t{cells_[i]}, weights_[i]);
  }

 private:
  int32_t cells_[kMostTaps];
  F weights_[kMostTaps];
  int32_t numbers_[kMostTaps];
};

template <typename T>
struct Levels {
  RoiAlignLevel<T> list[kRoiAlignMaxLevels];
  int64_t number;
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kForwardThreads, sizeof(T) == 8 ? 2 : FWD_BLOCKS)
    ForwardKernel(RoiAlignParameters parameters, Levels<const T> levels,
                  const AccumulatorOf<T>* __restrict__ boxes,
                  const int32_t* __restrict__ box_levels, T* __restrict__ output) {
  using F = AccumulatorOf<T>;
  constexpr int kBinsAtOnce = kForwardThreads / kLanes;
  __shared__ AxisTaps<F> row_taps, column_taps;
  __shared__ RoiAlignGrid<F> grid;
  const unsigned num_boxes = static_cast<unsigned>(parameters.num_boxes);
  const unsigned chunks =
      static_cast<unsigned>((parameters.channels + kLanes * kPack - 1) / (kLanes * kPack));
  const int64_t image = blockIdx.x / num_boxes / chunks;
  const int64_t box = image * num_boxes + blockIdx.x % num_boxes;
  const int64_t channel =
      (int64_t{blockIdx.x / num_boxes % chunks} * kLanes + threadIdx.x % kLanes) * kPack;
  const int height = static_cast<int>(parameters.output_height);
  const int width = static_cast<int>(parameters.output_width);
  const bool adaptive = parameters.sampling_ratio == 0;
  const int row_room = AxisTaps<F>::RoomOf(height), column_room = AxisTaps<F>::RoomOf(width);

  const int32_t index = box_levels[box];
  RoiAlignLevel<const T> level = {};
  if (index >= 0 && index < levels.number) level = levels.list[index];
  if (threadIdx.x == 0) {
    grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale, level.height, level.width,
                            parameters);
    if (level.data == nullptr) grid.valid = false;
  }
  __syncthreads();
  bool has_room = row_room > 0 && column_room > 0;
  if (grid.valid && has_room) {
    for (int i = threadIdx.x; i < height + width; i += kForwardThreads) {
      has_room &= i < height
                      ? row_taps.Find(grid.rows, i, row_room, adaptive)
                      : column_taps.Find(grid.columns, i - height, column_room, adaptive);
    }
  }
  has_room = __syncthreads_and(has_room);
  if (channel >= parameters.channels) return;

  const int64_t stride = level.width * parameters.channels;
  const T* map = level.data + image * level.height * stride + channel;
  T* to = output + box * height * width * parameters.channels + channel;
  for (int64_t bin = threadIdx.x / kLanes; bin < int64_t{height} * width; bin += kBinsAtOnce) {
    const int row = static_cast<int>(static_cast<unsigned>(bin) / static_cast<unsigned>(width));
    const int column = static_cast<int>(bin) - row * width;
    // A sum for each row of the map, so that none has many terms.
    F sums[kPack] = {};
    const auto add_line = [&](const F(&line)[kPack], F weight) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) sums[k] += weight * line[k];
    };
    if (!grid.valid) {
    } else if (has_room) {
      row_taps.template ForTaps<1>(row, row_room, [&](int64_t y, F weight) {
        F line[kPack] = {};
        const T* from = map + y * stride;
        column_taps.template ForTaps<4>(column, column_room, [&](int64_t x, F weight) {
          AddScaled<kPack>(from + x * parameters.channels, weight, line);
        });
        add_line(line, weight);
      });
    } else {
      const F row_start = grid.rows.BinStart(row), column_start = grid.columns.BinStart(column);
      const RoiAlignSamples<F> rows = grid.rows.SamplesOnMap(row_start, adaptive);
      const RoiAlignSamples<F> columns = grid.columns.SamplesOnMap(column_start, adaptive);
      ForSamples(grid.rows, row_start, rows, [&](int64_t y, F weight) {
        F line[kPack] = {};
        const T* from = map + y * stride;
        ForSamples(grid.columns, column_start, columns, [&](int64_t x, F weight) {
          AddScaled<kPack>(from + x * parameters.channels, weight, line);
        });
        add_line(line, weight);
      });
    }
    StoreSums<kPack>(sums, to + bin * parameters.channels);
  }
}

constexpr int kBackwardThreads = 256;
constexpr int kTileRows = BWD_ROWS;
constexpr int kTileColumns = kBackwardThreads / kLanes;
constexpr int kBatch = BWD_BATCH;  // boxes whose weights are in shared memory at once
constexpr int kWindow = 8;         // bins of an axis, likewise

// The tiles of the maps of all levels, in the order of the blocks.
struct TilesOfLevel {
  int64_t first_block;
  int64_t rows, columns;
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
  *end = static_cast<int32_t>(min(static_cast<int64_t>(fmin(high, limit)), axis.size - 1) / tile) +
         1;
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
      ReachOfAxis(grid.rows, parameters.output_height, kTileRows, &reach.first_row,
                  &reach.end_row);
      ReachOfAxis(grid.columns, parameters.output_width, kTileColumns, &reach.first_column,
                  &reach.end_column);
    }
  }
  reaches[box] = reach;
}

// The bins, in order, whose samples may read one of the cells [first_cell, last_cell]: [first, end).
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

// What the cells of a tile take from some bins of one box, along one axis.
template <typename F, int kCells>
struct WindowWeights {
  F weights[kWindow][kCells];

  // By bin, for one thread a bin.
  __device__ void Find(const RoiAlignAxis<F>& axis, int64_t bin, int place, int64_t first_cell,
                       bool adaptive) {
    F(&own)[kCells] = weights[place];
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) own[cell] = F(0);
    const F bin_start = axis.BinStart(bin);
    const RoiAlignSamples<F> samples =
        axis.SamplesBetween(bin_start, static_cast<F>(first_cell) - F(1),
                            static_cast<F>(first_cell + kCells), adaptive);
    ForSamples(axis, bin_start, samples, [&](int64_t cell, F weight) {
      const uint64_t place = static_cast<uint64_t>(cell - first_cell);
      if (place < kCells) own[place] += weight;
    });
  }
};

// Some boxes of a tile.
template <typename F>
struct Batch {
  struct Bins {
    int64_t first;  // of the window
    int number;     // in the window
    bool more;      // behind it
  };
  int64_t boxes[kBatch];
  Bins rows[kBatch], columns[kBatch];
  WindowWeights<F, kTileRows> row_weights[kBatch];
  WindowWeights<F, kTileColumns> column_weights[kBatch];
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kBackwardThreads, BWD_BLOCKS)
    BackwardKernel(RoiAlignParameters parameters, const T* __restrict__ output_gradient,
                   const AccumulatorOf<T>* __restrict__ boxes,
                   const int32_t* __restrict__ box_levels, const TileReach* __restrict__ reaches,
                   TiledLevels<T> levels, unsigned chunks) {
  using F = AccumulatorOf<T>;
  __shared__ Batch<F> batch;
  int index = levels.number - 1;
  while (levels.tiles[index].first_block > blockIdx.x ||
         levels.tiles[index].rows * levels.tiles[index].columns == 0) {
    --index;
  }
  const RoiAlignLevel<T> level = levels.list[index];
  unsigned tile = blockIdx.x - static_cast<unsigned>(levels.tiles[index].first_block);
  const unsigned tile_rows = static_cast<unsigned>(levels.tiles[index].rows);
  const unsigned tile_columns = static_cast<unsigned>(levels.tiles[index].columns);
  const unsigned tile_column = tile % tile_columns;
  tile /= tile_columns;
  const unsigned tile_row = tile % tile_rows;
  tile /= tile_rows;
  const int64_t image = tile / chunks;
  const int own_column = threadIdx.x / kLanes;
  const int64_t channel = (int64_t{tile % chunks} * kLanes + threadIdx.x % kLanes) * kPack;
  const bool has_channels = channel < parameters.channels;
  const int64_t first_y = int64_t{tile_row} * kTileRows, first_x = int64_t{tile_column} * kTileColumns;
  const int64_t first_box = image * parameters.num_boxes;
  const int64_t height = parameters.output_height, width = parameters.output_width;
  const bool adaptive = parameters.sampling_ratio == 0;

  F sums[kTileRows][kPack] = {};
  const auto is_near = [&](int64_t box) {
    return box_levels[first_box + box] == index &&
           reaches[first_box + box].Holds(tile_row, tile_column);
  };
  // Finds the weights of one window of bins; returns whether there are further ones.
  const auto find_window = [&](const int64_t* list, int number, int64_t row_window,
                               int64_t column_window) {
    int more = 0;  // 1: of rows, 2: of columns
    for (int i = threadIdx.x; i < number * 2 * kWindow; i += kBackwardThreads) {
      const int k = i / (2 * kWindow), place = i % kWindow;
      const bool of_rows = i % (2 * kWindow) < kWindow;
      const int64_t box = first_box + list[k];
      const RoiAlignGrid<F> grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale,
                                                    level.height, level.width, parameters);
      const RoiAlignAxis<F> axis = of_rows ? grid.rows : grid.columns;
      const int64_t first_cell = of_rows ? first_y : first_x;
      const int64_t last_cell = first_cell + (of_rows ? kTileRows : kTileColumns) - 1;
      const BinRange near = BinsNear(axis, first_cell, last_cell, of_rows ? height : width);
      const int64_t first = near.first + (of_rows ? row_window : column_window) * kWindow;
      const int64_t bin = first + place;
      if (bin < near.end) {
        if (of_rows) {
          batch.row_weights[k].Find(axis, bin, place, first_cell, adaptive);
        } else {
          batch.column_weights[k].Find(axis, bin, place, first_cell, adaptive);
        }
      }
      if (place == 0) {
        const int64_t left = near.end - first;
        const typename Batch<F>::Bins bins = {
            first, static_cast<int>(min(max(left, int64_t{0}), int64_t{kWindow})), left > kWindow};
        (of_rows ? batch.rows : batch.columns)[k] = bins;
        batch.boxes[k] = box;
        if (bins.more) more |= of_rows ? 1 : 2;
      }
    }
    return __syncthreads_or(more & 1) * 1 + (__syncthreads_or(more & 2) ? 2 : 0);
  };
  const auto add_window = [&](int number) {
    if (!has_channels) return;
    for (int k = 0; k < number; ++k) {
      const auto& column_weights = batch.column_weights[k].weights;
      const int row_bins = batch.rows[k].number, column_bins = batch.columns[k].number;
      int first = column_bins, end = 0;
      for (int b = 0; b < column_bins; ++b) {
        if (column_weights[b][own_column] != F(0)) {
          first = min(first, b);
          end = b + 1;
        }
      }
      if (end == 0) continue;
      const T* from = output_gradient +
                      ((batch.boxes[k] * height + batch.rows[k].first) * width +
                       batch.columns[k].first) *
                          parameters.channels +
                      channel;
#pragma unroll 2
      for (int row = 0; row < row_bins; ++row) {
        const auto& weights = batch.row_weights[k].weights[row];
        F line[kPack] = {};
        for (int b = first; b < end; ++b) {
          const F weight = column_weights[b][own_column];
          if (weight != F(0)) {
            AddScaled<kPack>(from + (row * width + b) * parameters.channels, weight, line);
          }
        }
#pragma unroll
        for (int y = 0; y < kTileRows; ++y) {
          const F weight = weights[y];
          if (weight != F(0)) {
#pragma unroll
            for (int c = 0; c < kPack; ++c) sums[y][c] += weight * line[c];
          }
        }
      }
    }
  };
  VisitNearBoxes<kBackwardThreads>(
      parameters.num_boxes, is_near, [&](const int64_t* list, int listed) {
        for (int start = 0; start < listed; start += kBatch) {
          const int number = min(kBatch, listed - start);
          int more_rows = 1;
          for (int64_t row_window = 0; more_rows; ++row_window) {
            int more_columns = 1;
            for (int64_t column_window = 0; more_columns; ++column_window) {
              const int more = find_window(list + start, number, row_window, column_window);
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
                       level.data + ((image * level.height + first_y + y) * level.width + x) *
                                        parameters.channels +
                           channel);
    }
  }
}

}  // namespace

template <typename T>
const char* RoiAlignForwardCuda(const RoiAlignParameters& parameters,
                                Span<const RoiAlignLevel<const T>> levels,
                                const RoiAlignBox<T>* boxes, const int32_t* box_levels, T* output,
                                void* stream) {
  Levels<const T> list = {};
  list.number = levels.size;
  std::copy(levels.begin(), levels.end(), list.list);
  const int64_t num_boxes = parameters.batch * parameters.num_boxes;
  if (num_boxes * parameters.output_height * parameters.output_width * parameters.channels == 0) {
    return nullptr;
  }
  const auto launch = [&](auto kernel, int pack) {
    const int64_t chunks = BlocksFor(parameters.channels, kLanes * pack);
    kernel<<<BlocksFor(num_boxes * chunks, 1), kForwardThreads, 0,
             static_cast<cudaStream_t>(stream)>>>(parameters, list, boxes, box_levels, output);
  };
  constexpr int kPack = kForwardPack<T>;
  if (std::all_of(levels.begin(), levels.end(), [&](const RoiAlignLevel<const T>& level) {
        return Packs<kPack>(parameters.channels, level.data, output);
      })) {
    launch(ForwardKernel<T, kPack>, kPack);
  } else {
    launch(ForwardKernel<T, 1>, 1);
  }
  return LastCudaError();
}

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
  const int64_t chunks = BlocksFor(parameters.channels, kLanes * (packs ? kFullPack<T> : 1));
  TiledLevels<T> levels = {};
  levels.number = static_cast<int>(level_gradients.size);
  int64_t blocks = 0;
  for (int index = 0; index < levels.number; ++index) {
    const RoiAlignLevel<T>& level = level_gradients[index];
    levels.list[index] = level;
    levels.tiles[index] = {blocks, BlocksFor(level.height, kTileRows),
                           BlocksFor(level.width, kTileColumns)};
    blocks += parameters.batch * chunks * levels.tiles[index].rows * levels.tiles[index].columns;
  }
  if (blocks == 0) return nullptr;
  if (num_boxes > 0) {
    ReachKernel<T><<<BlocksFor(num_boxes, kPackThreads), kPackThreads, 0, cuda_stream>>>(
        parameters, levels, boxes, box_levels, reaches);
  }
  const auto kernel = packs ? BackwardKernel<T, kFullPack<T>> : BackwardKernel<T, 1>;
  kernel<<<BlocksFor(blocks, 1), kBackwardThreads, 0, cuda_stream>>>(
      parameters, output_gradient, boxes, box_levels, reaches, levels,
      static_cast<unsigned>(chunks));
  return LastCudaError();
}

#define KVISION_ROI_ALIGN(T)                                                                     \
  template const char* RoiAlignForwardCuda<T>(const RoiAlignParameters&,                         \
                                              Span<const RoiAlignLevel<const T>>,                \
                                              const RoiAlignBox<T>*, const int32_t*, T*, void*); \
  template const char* RoiAlignBackwardCuda<T>(const RoiAlignParameters&, const T*,              \
                                               const RoiAlignBox<T>*, const int32_t*,            \
                                               Span<const RoiAlignLevel<T>>, void*, void*);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
