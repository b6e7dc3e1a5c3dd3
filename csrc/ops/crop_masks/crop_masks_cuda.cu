// A block a box, a thread a bin: the samples of the bin, as RoIAlign takes them, each from the
// pixels around it. A pixel of a label map is compared; of run lengths, the number of runs that end
// at or before it is odd, which a search among their ends tells.
#include <cstdint>

#include "common/launch.cuh"
#include "ops/crop_masks/crop_masks.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;

struct PixelsOfLabelMap {
  const int32_t* image;
  int64_t width;
  int32_t id;

  __device__ float operator()(int64_t y, int64_t x) const {
    return image[y * width + x] == id ? 1.0f : 0.0f;
  }
};

struct PixelsOfRuns {
  const int32_t* ends;  // ascending
  int64_t number, height;

  __device__ float operator()(int64_t y, int64_t x) const {
    const int64_t pixel = x * height + y;
    int64_t low = 0, high = number;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (ends[middle] <= pixel) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low % 2 == 1 && low < number ? 1.0f : 0.0f;
  }
};

template <typename Pixels>
__device__ float SampleBin(const CropMasksGrid& grid, int64_t row, int64_t column,
                           const Pixels& pixels) {
  const float top = grid.rows.BinStart(row), left = grid.columns.BinStart(column);
  const RoiAlignSamples<float> ys = grid.rows.SamplesOnMap(top, true);
  const RoiAlignSamples<float> xs = grid.columns.SamplesOnMap(left, true);
  float sum = 0.0f;
  for (int64_t i = 0; i < ys.number; ++i) {
    const float y = grid.rows.Position(top, ys.first + static_cast<float>(i));
    if (!ReadsMap(y, grid.rows.size)) continue;
    const BilinearTaps<float> rows = TapsAt(y, grid.rows.size);
    for (int64_t j = 0; j < xs.number; ++j) {
      const float x = grid.columns.Position(left, xs.first + static_cast<float>(j));
      if (!ReadsMap(x, grid.columns.size)) continue;
      const BilinearTaps<float> columns = TapsAt(x, grid.columns.size);
      const auto along = [&](int64_t line) {
        return columns.low_weight * pixels(line, columns.low) +
               columns.high_weight * pixels(line, columns.high);
      };
      sum += rows.low_weight * along(rows.low) + rows.high_weight * along(rows.high);
    }
  }
  return sum * grid.rows.SampleWeight() * grid.columns.SampleWeight();
}

template <typename Pixels>
__device__ void SampleBins(const CropMasksParameters& parameters, const CropMasksGrid& grid,
                           bool has_mask, const Pixels& pixels, float* bins) {
  const int64_t number = parameters.output_height * parameters.output_width;
  for (int64_t bin = threadIdx.x; bin < number; bin += blockDim.x) {
    const int64_t row = bin / parameters.output_width, column = bin % parameters.output_width;
    bins[bin] = has_mask ? SampleBin(grid, row, column, pixels) : 0.0f;
  }
}

__global__ void CropLabelMapKernel(CropMasksParameters parameters,
                                   const int32_t* __restrict__ label_map,
                                   const float* __restrict__ boxes,
                                   const int32_t* __restrict__ rows, float* __restrict__ output) {
  const int64_t box = blockIdx.x;
  const CropMasksGrid grid = CropMasksGridOf(boxes + 4 * box, parameters);
  const int32_t row = rows[box];
  const bool has_mask = grid.valid && row >= 0 && row < INT32_MAX;
  const int64_t pixels = parameters.height * parameters.width;
  SampleBins(parameters, grid, has_mask,
             PixelsOfLabelMap{label_map + box / parameters.num_boxes * pixels, parameters.width,
                              has_mask ? row + 1 : 0},
             output + box * parameters.output_height * parameters.output_width);
}

// A warp a mask: where its runs end, at most behind the last pixel; all at 0 where one is negative.
__global__ void EndsOfRunsKernel(CropMasksParameters parameters, const int32_t* __restrict__ runs,
                                 int32_t* __restrict__ ends) {
  const int64_t mask = ThreadInGrid() / kWarp;
  if (mask >= parameters.batch * parameters.num_instances) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t number = parameters.num_runs;
  const int64_t pixels = parameters.height * parameters.width;
  runs += mask * number;
  ends += mask * number;
  bool any_negative = false;
  int64_t before = 0;
  for (int64_t first = 0; first < number; first += kWarp) {
    const int64_t i = first + lane;
    const int64_t run = i < number ? runs[i] : 0;
    any_negative = any_negative || run < 0;
    int64_t sum = run;
    for (int step = 1; step < kWarp; step *= 2) {
      const int64_t other = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += other;
    }
    sum += before;
    if (i < number) ends[i] = static_cast<int32_t>(sum < pixels ? sum : pixels);
    before = __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  if (!__any_sync(kAllLanes, any_negative)) return;
  for (int64_t i = lane; i < number; i += kWarp) ends[i] = 0;
}

__global__ void CropRunsKernel(CropMasksParameters parameters, const int32_t* __restrict__ ends,
                               const float* __restrict__ boxes, const int32_t* __restrict__ rows,
                               float* __restrict__ output) {
  const int64_t box = blockIdx.x;
  const CropMasksGrid grid = CropMasksGridOf(boxes + 4 * box, parameters);
  const int32_t row = rows[box];
  const bool has_mask = grid.valid && row >= 0 && row < parameters.num_instances;
  const int64_t mask = box / parameters.num_boxes * parameters.num_instances + (has_mask ? row : 0);
  SampleBins(
      parameters, grid, has_mask,
      PixelsOfRuns{ends + mask * parameters.num_runs, parameters.num_runs, parameters.height},
      output + box * parameters.output_height * parameters.output_width);
}

}  // namespace

const char* CropMasksCuda(const CropMasksParameters& parameters, const int32_t* label_map,
                          const float* boxes, const int32_t* rows, float* output, void* stream) {
  const unsigned blocks = BlocksFor(parameters.batch * parameters.num_boxes, 1);
  CropLabelMapKernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      parameters, label_map, boxes, rows, output);
  return LastCudaError();
}

int64_t CropMaskRunsCudaWorkspace(const CropMasksParameters& parameters) {
  return parameters.batch * parameters.num_instances * parameters.num_runs * sizeof(int32_t);
}

const char* CropMaskRunsCuda(const CropMasksParameters& parameters, const int32_t* runs,
                             const float* boxes, const int32_t* rows, float* output,
                             void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  auto* const ends = static_cast<int32_t*>(workspace);
  const int64_t masks = parameters.batch * parameters.num_instances;
  if (masks * parameters.num_runs > 0) {
    EndsOfRunsKernel<<<BlocksFor(masks * kWarp, kThreads), kThreads, 0, cuda_stream>>>(parameters,
                                                                                       runs, ends);
  }
  const unsigned blocks = BlocksFor(parameters.batch * parameters.num_boxes, 1);
  CropRunsKernel<<<blocks, kThreads, 0, cuda_stream>>>(parameters, ends, boxes, rows, output);
  return LastCudaError();
}

}  // namespace kvision
