// A block owns the bins of a box for some channels next to one another. Blocks run in the order of
// these channels within an image, whose map is then read from the cache again.
#include <algorithm>
#include <cstdint>

#include "common/channel_packs.cuh"
#include "common/launch.cuh"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"
#include "ops/roi_align/roi_align_samples.cuh"

namespace kvision {
namespace {

// `lanes` threads of a warp own a bin, a pack of channels each.
constexpr int kThreads = 128;

// As many as leave each thread the registers that it needs.
template <typename T>
constexpr int kBlocksOnSm = sizeof(T) == 4   ? 6
                            : sizeof(T) == 2 ? 5
                                             : 4;

// 16 bytes of any type.
template <typename T>
constexpr int kWidePack = 16 / sizeof(T);

template <typename F>
struct Tap {
  int32_t offset;
  F weight;
};

// The taps of all bins along one axis, in shared memory; samples that read the same cell are
// merged.
template <typename F>
struct AxisTaps {
  static constexpr int kMostTaps = 256;

  Tap<F> taps[kMostTaps];
  int32_t numbers[kMostTaps];

  // How many taps a bin has room for.
  __device__ static int RoomOf(int64_t bins) {
    return bins > kMostTaps ? 0 : kMostTaps / static_cast<int>(bins);
  }

  // Returns whether the taps of the bin have room. `stride` is that of the axis.
  __device__ bool Find(const RoiAlignAxis<F>& axis, int bin, int room, int64_t stride,
                       bool adaptive) {
    constexpr int kLookBack = 3;
    const F bin_start = axis.BinStart(bin);
    const RoiAlignSamples<F> samples = axis.SamplesOnMap(bin_start, adaptive);
    // Samples of an adaptive grid have a cell each but for a few.
    if (axis.size > INT32_MAX / stride || (adaptive && samples.number > room)) return false;
    Tap<F>* const own = taps + bin * room;
    int number = 0;
    bool fits = true;
    ForSamples(axis, bin_start, samples, [&](int64_t cell, F weight) {
      const int32_t offset = static_cast<int32_t>(cell * stride);
      for (int i = number - 1; i >= 0 && i >= number - kLookBack; --i) {
        if (own[i].offset == offset) {
          own[i].weight += weight;
          return;
        }
      }
      if (number == room) {
        fits = false;
      } else {
        own[number++] = {offset, weight};
      }
    });
    numbers[bin] = number;
    return fits;
  }
};

// Adds what the taps read. Several loads are on their way at once.
template <int kPack, typename T>
__device__ inline void AddTaps(const T* from, const Tap<AccumulatorOf<T>>* taps, int number,
                               AccumulatorOf<T> (&sums)[kPack]) {
  constexpr int kAtOnce = 4;
  for (int first = 0; first < number; first += kAtOnce) {
    Pack<T, kPack> packs[kAtOnce];
    AccumulatorOf<T> weights[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < number) {
        const Tap<AccumulatorOf<T>> tap = taps[first + i];
        weights[i] = tap.weight;
        packs[i] = LoadPack<kPack>(from + tap.offset);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < number) {
#pragma unroll
        for (int k = 0; k < kPack; ++k) sums[k] += weights[i] * ToFloat(packs[i].values[k]);
      }
    }
  }
}

template <typename T>
struct Levels {
  RoiAlignLevel<T> list[kRoiAlignMaxLevels];
  int64_t number;
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm<T>)
    ForwardKernel(const __grid_constant__ RoiAlignParameters parameters,
                  const __grid_constant__ Levels<const T> levels,
                  const AccumulatorOf<T>* __restrict__ boxes,
                  const int32_t* __restrict__ box_levels, T* __restrict__ output, unsigned lanes,
                  unsigned chunks) {
  using F = AccumulatorOf<T>;
  __shared__ AxisTaps<F> row_taps, column_taps;
  __shared__ RoiAlignGrid<F> grid;
  const unsigned num_boxes = static_cast<unsigned>(parameters.num_boxes);
  const int64_t image = blockIdx.x / num_boxes / chunks;
  const int64_t box = image * num_boxes + blockIdx.x % num_boxes;
  const unsigned chunk = blockIdx.x / num_boxes % chunks;
  const int64_t channel = (int64_t{chunk} * lanes + threadIdx.x % lanes) * kPack;
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
  const bool valid = grid.valid;
  bool has_room = row_room > 0 && column_room > 0;
  if (valid && has_room) {
    for (int i = threadIdx.x; i < height + width; i += kThreads) {
      const bool of_rows = i < height;
      const RoiAlignAxis<F> axis = of_rows ? grid.rows : grid.columns;
      has_room &= (of_rows ? row_taps : column_taps)
                      .Find(axis, of_rows ? i : i - height, of_rows ? row_room : column_room,
                            of_rows ? 1 : parameters.channels, adaptive);
    }
  }
  has_room = __syncthreads_and(has_room);
  if (channel >= parameters.channels) return;

  const int64_t stride = level.width * parameters.channels;
  const T* map = level.data + image * level.height * stride + channel;
  T* to = output + box * height * width * parameters.channels + channel;
  // Each bin of this warp: `sum(row, column, sums)`.
  const auto for_bins = [&](const auto& sum) {
    const unsigned bins = static_cast<unsigned>(height * width);
    for (unsigned bin = threadIdx.x / lanes; bin < bins; bin += kThreads / lanes) {
      const int row = static_cast<int>(bin / static_cast<unsigned>(width));
      F sums[kPack] = {};
      sum(row, static_cast<int>(bin) - row * width, sums);
      StoreSums<kPack>(sums, to + int64_t{bin} * parameters.channels);
    }
  };
  // A sum for each row of the map, so that none has many terms.
  const auto add_line = [](const F(&line)[kPack], F weight, F(&sums)[kPack]) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) sums[k] += weight * line[k];
  };
  if (!valid) {
    for_bins([](int, int, F(&)[kPack]) {});
  } else if (has_room) {
    for_bins([&](int row, int column, F(&sums)[kPack]) {
      const Tap<F>* const rows = row_taps.taps + row * row_room;
      const Tap<F>* const columns = column_taps.taps + column * column_room;
      const int num_rows = row_taps.numbers[row], num_columns = column_taps.numbers[column];
      for (int i = 0; i < num_rows; ++i) {
        F line[kPack] = {};
        AddTaps<kPack>(map + rows[i].offset * stride, columns, num_columns, line);
        add_line(line, rows[i].weight, sums);
      }
    });
  } else {
    for_bins([&](int row, int column, F(&sums)[kPack]) {
      const F row_start = grid.rows.BinStart(row), column_start = grid.columns.BinStart(column);
      const RoiAlignSamples<F> rows = grid.rows.SamplesOnMap(row_start, adaptive);
      const RoiAlignSamples<F> columns = grid.columns.SamplesOnMap(column_start, adaptive);
      ForSamples(grid.rows, row_start, rows, [&](int64_t y, F weight) {
        F line[kPack] = {};
        const T* from = map + y * stride;
        ForSamples(grid.columns, column_start, columns, [&](int64_t x, F weight) {
          AddScaled<kPack>(from + x * parameters.channels, weight, line);
        });
        add_line(line, weight, sums);
      });
    });
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
    const unsigned lanes = LanesFor(parameters.channels / pack);
    const unsigned chunks = BlocksFor(parameters.channels, int64_t{lanes} * pack);
    kernel<<<BlocksFor(num_boxes * chunks, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        parameters, list, boxes, box_levels, output, lanes, chunks);
  };
  constexpr int kPack = kWidePack<T>;
  if (std::all_of(levels.begin(), levels.end(), [&](const RoiAlignLevel<const T>& level) {
        return Packs<kPack>(parameters.channels, level.data, output);
      })) {
    launch(ForwardKernel<T, kPack>, kPack);
  } else {
    launch(ForwardKernel<T, 1>, 1);
  }
  return LastCudaError();
}

#define KVISION_ROI_ALIGN(T)                                                      \
  template const char* RoiAlignForwardCuda<T>(const RoiAlignParameters&,          \
                                              Span<const RoiAlignLevel<const T>>, \
                                              const RoiAlignBox<T>*, const int32_t*, T*, void*);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
