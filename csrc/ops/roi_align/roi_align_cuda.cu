// Each thread owns its output: kPack channels of a bin going forward, of a cell of the map going
// back. So there are no atomic additions, and the sums have one order. Threads next to one another
// own channels next to one another, so that loads are coalesced.
#include <algorithm>
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"

namespace kvision {
namespace {

// What has no weight is not read, so that a NaN there does not matter.
template <int kPack, typename T>
__device__ inline void AddScaled(const T* from, AccumulatorOf<T> weight,
                                 AccumulatorOf<T> (&sums)[kPack]) {
  if (weight == AccumulatorOf<T>(0)) return;
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

template <typename T>
struct Levels {
  RoiAlignLevel<T> list[kRoiAlignMaxLevels];
  int64_t number;
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    ForwardKernel(RoiAlignParameters parameters, Levels<const T> levels,
                  const AccumulatorOf<T>* __restrict__ boxes,
                  const int32_t* __restrict__ box_levels, T* __restrict__ output, int64_t total) {
  using F = AccumulatorOf<T>;
  const int64_t packs = parameters.channels / kPack;
  const bool adaptive = parameters.sampling_ratio == 0;
  const int64_t index = ThreadInGrid();
  if (index >= total) return;
  const int64_t channel = index % packs * kPack;
  const int64_t bin = index / packs;
  const int64_t column_bin = bin % parameters.output_width;
  const int64_t row_bin = bin / parameters.output_width % parameters.output_height;
  const int64_t box = bin / (parameters.output_width * parameters.output_height);
  F sums[kPack] = {};
  const int32_t level_index = box_levels[box];
  if (level_index >= 0 && level_index < levels.number) {
    const RoiAlignLevel<const T> level = levels.list[level_index];
    const RoiAlignGrid<F> grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale,
                                                  level.height, level.width, parameters);
    if (grid.valid) {
      const int64_t stride = level.width * parameters.channels;
      const T* image = level.data + box / parameters.num_boxes * level.height * stride + channel;
      const F row_start = grid.rows.BinStart(row_bin),
              column_start = grid.columns.BinStart(column_bin);
      const RoiAlignSamples<F> rows = grid.rows.SamplesOnMap(row_start, adaptive);
      const RoiAlignSamples<F> columns = grid.columns.SamplesOnMap(column_start, adaptive);
      const F sample_weight = grid.rows.SampleWeight() * grid.columns.SampleWeight();
      for (int64_t i = 0; i < rows.number; ++i) {
        const F y = grid.rows.Position(row_start, rows.first + static_cast<F>(i));
        if (!ReadsMap(y, level.height)) continue;
        const BilinearTaps<F> row = TapsAt(y, level.height);
        const T* low = image + row.low * stride;
        const T* high = image + row.high * stride;
        for (int64_t j = 0; j < columns.number; ++j) {
          const F x = grid.columns.Position(column_start, columns.first + static_cast<F>(j));
          if (!ReadsMap(x, level.width)) continue;
          const BilinearTaps<F> column = TapsAt(x, level.width);
          const int64_t left = column.low * parameters.channels,
                        right = column.high * parameters.channels;
          const F low_weight = row.low_weight * sample_weight,
                  high_weight = row.high_weight * sample_weight;
          AddScaled<kPack>(low + left, low_weight * column.low_weight, sums);
          AddScaled<kPack>(low + right, low_weight * column.high_weight, sums);
          AddScaled<kPack>(high + left, high_weight * column.low_weight, sums);
          AddScaled<kPack>(high + right, high_weight * column.high_weight, sums);
        }
      }
    }
  }
  StoreSums<kPack>(sums, output + bin * parameters.channels + channel);
}

// The bins, in order, whose samples may read a cell: [first, end).
struct BinRange {
  int64_t first, end;
};

template <typename F>
__device__ inline BinRange BinsNear(const RoiAlignAxis<F>& axis, int64_t cell, int64_t bins) {
  if (!(axis.bin_extent > F(0))) return {0, bins};
  const F last = static_cast<F>(bins);
  const F first = floor((static_cast<F>(cell) - F(1) - axis.start) / axis.bin_extent - F(1));
  const F end = ceil((static_cast<F>(cell) + F(1) - axis.start) / axis.bin_extent + F(1));
  return {static_cast<int64_t>(fmin(fmax(first, F(0)), last)),
          static_cast<int64_t>(fmin(fmax(end, F(0)), last))};
}

// The weight of a cell in the mean of a bin along one axis.
template <typename F>
__device__ inline F WeightOfCell(const RoiAlignAxis<F>& axis, int64_t bin, int64_t cell,
                                 bool adaptive) {
  const F bin_start = axis.BinStart(bin);
  const RoiAlignSamples<F> samples = axis.SamplesBetween(bin_start, static_cast<F>(cell) - F(1),
                                                         static_cast<F>(cell) + F(1), adaptive);
  F weight = 0;
  for (int64_t i = 0; i < samples.number; ++i) {
    const F position = axis.Position(bin_start, samples.first + static_cast<F>(i));
    if (!ReadsMap(position, axis.size)) continue;
    const BilinearTaps<F> taps = TapsAt(position, axis.size);
    if (taps.low == cell) weight += taps.low_weight;
    if (taps.high == cell) weight += taps.high_weight;
  }
  // A box of no extent has no samples, whose weight is infinite.
  return weight > F(0) ? weight * axis.SampleWeight() : F(0);
}

// The rows and columns of the map that a box may read, so that a cell passes over most boxes by
// four comparisons.
struct Reach {
  int64_t first_row, last_row, first_column, last_column;
};

template <typename F>
__device__ inline void ReachOfAxis(const RoiAlignAxis<F>& axis, int64_t bins, int64_t* first,
                                   int64_t* last) {
  const F end = axis.BinStart(bins);
  const F limit = static_cast<F>(axis.size);
  const F low = floor(fmin(axis.start, end)) - F(2), high = ceil(fmax(axis.start, end)) + F(2);
  *first = static_cast<int64_t>(fmin(fmax(low, F(0)), limit));
  *last = static_cast<int64_t>(fmin(fmax(high, F(-1)), limit));
}

template <typename F, typename T>
__global__ void ReachKernel(RoiAlignParameters parameters, RoiAlignLevel<T> level,
                            int32_t level_index, const F* __restrict__ boxes,
                            const int32_t* __restrict__ box_levels, Reach* __restrict__ reaches,
                            int64_t total) {
  const int64_t box = ThreadInGrid();
  if (box >= total) return;
  Reach reach = {0, -1, 0, -1};
  if (box_levels[box] == level_index) {
    const RoiAlignGrid<F> grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale,
                                                  level.height, level.width, parameters);
    if (grid.valid) {
      ReachOfAxis(grid.rows, parameters.output_height, &reach.first_row, &reach.last_row);
      ReachOfAxis(grid.columns, parameters.output_width, &reach.first_column, &reach.last_column);
    }
  }
  reaches[box] = reach;
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kPackThreads, kPackBlocksOnSm)
    BackwardKernel(RoiAlignParameters parameters, const T* __restrict__ output_gradient,
                   const AccumulatorOf<T>* __restrict__ boxes, const Reach* __restrict__ reaches,
                   RoiAlignLevel<T> level, int64_t total) {
  using F = AccumulatorOf<T>;
  const int64_t packs = parameters.channels / kPack;
  const bool adaptive = parameters.sampling_ratio == 0;
  const int64_t index = ThreadInGrid();
  if (index >= total) return;
  const int64_t channel = index % packs * kPack;
  const int64_t cell = index / packs;
  const int64_t x = cell % level.width;
  const int64_t y = cell / level.width % level.height;
  const int64_t first_box = cell / (level.width * level.height) * parameters.num_boxes;
  F sums[kPack] = {};
  for (int64_t box = first_box; box < first_box + parameters.num_boxes; ++box) {
    const Reach reach = reaches[box];
    if (y < reach.first_row || y > reach.last_row || x < reach.first_column ||
        x > reach.last_column)
      continue;
    const RoiAlignGrid<F> grid = MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale,
                                                  level.height, level.width, parameters);
    const BinRange row_bins = BinsNear(grid.rows, y, parameters.output_height);
    const BinRange column_bins = BinsNear(grid.columns, x, parameters.output_width);
    for (int64_t row_bin = row_bins.first; row_bin < row_bins.end; ++row_bin) {
      const F row_weight = WeightOfCell(grid.rows, row_bin, y, adaptive);
      if (row_weight == F(0)) continue;
      const int64_t bin_row = (box * parameters.output_height + row_bin) * parameters.output_width;
      for (int64_t column_bin = column_bins.first; column_bin < column_bins.end; ++column_bin) {
        const F weight = row_weight * WeightOfCell(grid.columns, column_bin, x, adaptive);
        AddScaled<kPack>(output_gradient + (bin_row + column_bin) * parameters.channels + channel,
                         weight, sums);
      }
    }
  }
  StoreSums<kPack>(sums, level.data + cell * parameters.channels + channel);
}

}  // namespace

template <typename T>
const char* RoiAlignForwardCuda(const RoiAlignParameters& parameters,
                                Span<const RoiAlignLevel<const T>> levels,
                                const RoiAlignBox<T>* boxes, const int32_t* box_levels, T* output,
                                void* stream) {
  constexpr int kPack = kFullPack<T>;
  Levels<const T> list = {};
  list.number = levels.size;
  std::copy(levels.begin(), levels.end(), list.list);
  const int64_t total = parameters.batch * parameters.num_boxes * parameters.output_height *
                        parameters.output_width * parameters.channels;
  if (total == 0) return nullptr;
  const bool packs =
      std::all_of(levels.begin(), levels.end(), [&](const RoiAlignLevel<const T>& level) {
        return Packs<kPack>(parameters.channels, level.data, output);
      });
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (packs) {
    ForwardKernel<T, kPack>
        <<<BlocksFor(total / kPack, kPackThreads), kPackThreads, 0, cuda_stream>>>(
            parameters, list, boxes, box_levels, output, total / kPack);
  } else {
    ForwardKernel<T, 1><<<BlocksFor(total, kPackThreads), kPackThreads, 0, cuda_stream>>>(
        parameters, list, boxes, box_levels, output, total);
  }
  return LastCudaError();
}

int64_t RoiAlignBackwardCudaWorkspace(const RoiAlignParameters& parameters) {
  return parameters.batch * parameters.num_boxes * static_cast<int64_t>(sizeof(Reach));
}

template <typename T>
const char* RoiAlignBackwardCuda(const RoiAlignParameters& parameters, const T* output_gradient,
                                 const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                                 Span<const RoiAlignLevel<T>> level_gradients, void* workspace,
                                 void* stream) {
  constexpr int kPack = kFullPack<T>;
  const int64_t num_boxes = parameters.batch * parameters.num_boxes;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  Reach* const reaches = static_cast<Reach*>(workspace);
  for (int64_t index = 0; index < level_gradients.size; ++index) {
    const RoiAlignLevel<T>& level = level_gradients[index];
    const int64_t total = parameters.batch * level.height * level.width * parameters.channels;
    if (total == 0) continue;
    if (num_boxes > 0) {
      ReachKernel<RoiAlignBox<T>, T>
          <<<BlocksFor(num_boxes, kPackThreads), kPackThreads, 0, cuda_stream>>>(
              parameters, level, static_cast<int32_t>(index), boxes, box_levels, reaches,
              num_boxes);
    }
    if (Packs<kPack>(parameters.channels, output_gradient, level.data)) {
      BackwardKernel<T, kPack>
          <<<BlocksFor(total / kPack, kPackThreads), kPackThreads, 0, cuda_stream>>>(
              parameters, output_gradient, boxes, reaches, level, total / kPack);
    } else {
      BackwardKernel<T, 1><<<BlocksFor(total, kPackThreads), kPackThreads, 0, cuda_stream>>>(
          parameters, output_gradient, boxes, reaches, level, total);
    }
  }
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
