// First, where each box reads. Then for a label map a thread a pixel, which asks the boxes in their
// order; for run lengths a block a box, a thread some columns next to one another, twice: how many
// runs end in them, and then which.
#include <cstdint>

#include "common/launch.cuh"
#include "ops/paste_masks/paste_masks.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;
constexpr int kThreadsOfBox = 128;
constexpr int kWarpsOfBox = kThreadsOfBox / kWarp;

__global__ void GridsKernel(PasteMasksParameters parameters, const float* __restrict__ boxes,
                            PasteGrid* __restrict__ grids) {
  const int64_t box = ThreadInGrid();
  if (box >= parameters.batch * parameters.num_boxes) return;
  grids[box] = PasteGridOf(boxes + 4 * box, parameters);
}

// Whether a pixel that a box reads is of its instance.
__device__ bool IsMask(const PasteMasksParameters& parameters, const PasteGrid& grid,
                       const float* mask, int64_t y, int64_t x) {
  const float row_position = grid.rows.Position(y), column_position = grid.columns.Position(x);
  const auto row = static_cast<int64_t>(row_position);
  const auto column = static_cast<int64_t>(column_position);
  const float row_weight = row_position - static_cast<float>(row);
  const float column_weight = column_position - static_cast<float>(column);
  // Counted from the zeros before the first cells.
  const auto cell = [&](int64_t i, int64_t j) {
    const bool inside = i > 0 && i <= parameters.mask_height && j > 0 && j <= parameters.mask_width;
    return inside ? mask[(i - 1) * parameters.mask_width + j - 1] : 0.0f;
  };
  const auto between = [](float low, float high, float weight) {
    return Multiply(low, 1.0f - weight) + Multiply(high, weight);
  };
  const float value =
      between(between(cell(row, column), cell(row, column + 1), column_weight),
              between(cell(row + 1, column), cell(row + 1, column + 1), column_weight), row_weight);
  return value >= parameters.threshold;
}

__global__ void LabelMapKernel(PasteMasksParameters parameters, const float* __restrict__ masks,
                               const PasteGrid* __restrict__ grids,
                               int32_t* __restrict__ label_map) {
  const int64_t pixel = ThreadInGrid();
  const int64_t pixels = parameters.height * parameters.width;
  if (pixel >= parameters.batch * pixels) return;
  const int64_t image = pixel / pixels;
  const int64_t y = pixel % pixels / parameters.width, x = pixel % parameters.width;
  const int64_t cells = parameters.mask_height * parameters.mask_width;
  int32_t id = 0;
  for (int64_t row = 0; row < parameters.num_boxes && id == 0; ++row) {
    const int64_t box = image * parameters.num_boxes + row;
    const PasteGrid& grid = grids[box];
    const bool reads = y >= grid.rows.first && y < grid.rows.last && x >= grid.columns.first &&
                       x < grid.columns.last;
    if (reads && IsMask(parameters, grid, masks + box * cells, y, x)) {
      id = static_cast<int32_t>(row + 1);
    }
  }
  label_map[pixel] = id;
}

// Calls `end_run(pixel)` for the end of every run, but the last, in the columns [begin, end).
template <typename EndRun>
__device__ void EndsOfRuns(const PasteMasksParameters& parameters, const PasteGrid& grid,
                           const float* mask, int64_t begin, int64_t end, const EndRun& end_run) {
  const int64_t height = parameters.height;
  const bool is_whole = grid.rows.first == 0 && grid.rows.last == height;
  for (int64_t x = begin; x < end; ++x) {
    // Whole columns follow one another without a pixel in between.
    bool before = is_whole && x > grid.columns.first &&
                  IsMask(parameters, grid, mask, grid.rows.last - 1, x - 1);
    for (int64_t y = grid.rows.first; y < grid.rows.last; ++y) {
      const bool here = IsMask(parameters, grid, mask, y, x);
      if (here != before) end_run(x * height + y);
      before = here;
    }
    const int64_t behind = x * height + grid.rows.last;
    const bool is_last = x == grid.columns.last - 1;
    if (before && (!is_whole || is_last) && behind < height * parameters.width) end_run(behind);
  }
}

// What some threads next to one another find.
struct Counts {
  int64_t number, last_end;  // of runs; and where the last of them ends

  __device__ Counts Then(Counts next) const {
    return {number + next.number, next.number > 0 ? next.last_end : last_end};
  }
};

__device__ Counts FromLaneBelow(Counts counts, int step) {
  return {__shfl_up_sync(kAllLanes, counts.number, step),
          __shfl_up_sync(kAllLanes, counts.last_end, step)};
}

__global__ void RunsKernel(PasteMasksParameters parameters, const float* __restrict__ masks,
                           const PasteGrid* __restrict__ grids, int32_t* __restrict__ output) {
  __shared__ Counts of_warps[kWarpsOfBox];
  const int64_t box = blockIdx.x;
  const PasteGrid grid = grids[box];
  const float* const mask = masks + box * parameters.mask_height * parameters.mask_width;
  int32_t* const runs = output + box * parameters.num_runs;
  const int64_t columns = grid.columns.last - grid.columns.first;
  const int64_t begin = grid.columns.first + columns * threadIdx.x / kThreadsOfBox;
  const int64_t end = grid.columns.first + columns * (threadIdx.x + 1) / kThreadsOfBox;

  Counts own{0, 0};
  EndsOfRuns(parameters, grid, mask, begin, end,
             [&](int64_t pixel) { own = {own.number + 1, pixel}; });
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Counts so_far = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const Counts other = FromLaneBelow(so_far, step);
    if (lane >= step) so_far = other.Then(so_far);
  }
  if (lane == kWarp - 1) of_warps[warp] = so_far;
  __syncthreads();
  Counts before = FromLaneBelow(so_far, 1), all{0, 0};
  if (lane == 0) before = {0, 0};
  for (int i = 0; i < kWarpsOfBox; ++i) {
    if (i == warp) before = all.Then(before);
    all = all.Then(of_warps[i]);
  }

  const bool fits = all.number < parameters.num_runs;  // with the last one, behind the last end
  for (int64_t i = threadIdx.x; i < parameters.num_runs; i += kThreadsOfBox) {
    if (!fits) runs[i] = -1;
    if (fits && i > all.number) runs[i] = 0;
  }
  if (!fits) return;
  if (threadIdx.x == 0) {
    const int64_t pixels = parameters.height * parameters.width;
    runs[all.number] = static_cast<int32_t>(pixels - all.last_end);
  }
  EndsOfRuns(parameters, grid, mask, begin, end, [&](int64_t pixel) {
    runs[before.number] = static_cast<int32_t>(pixel - before.last_end);
    before = {before.number + 1, pixel};
  });
}

void LaunchGrids(const PasteMasksParameters& parameters, const float* boxes, PasteGrid* grids,
                 cudaStream_t stream) {
  const int64_t number = parameters.batch * parameters.num_boxes;
  if (number == 0) return;
  GridsKernel<<<BlocksFor(number, kThreads), kThreads, 0, stream>>>(parameters, boxes, grids);
}

}  // namespace

int64_t PasteMasksCudaWorkspace(const PasteMasksParameters& parameters) {
  return parameters.batch * parameters.num_boxes * sizeof(PasteGrid);
}

const char* PasteMasksCuda(const PasteMasksParameters& parameters, const float* masks,
                           const float* boxes, int32_t* label_map, void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  auto* const grids = static_cast<PasteGrid*>(workspace);
  LaunchGrids(parameters, boxes, grids, cuda_stream);
  const int64_t pixels = parameters.batch * parameters.height * parameters.width;
  LabelMapKernel<<<BlocksFor(pixels, kThreads), kThreads, 0, cuda_stream>>>(parameters, masks,
                                                                            grids, label_map);
  return LastCudaError();
}

const char* PasteMaskRunsCuda(const PasteMasksParameters& parameters, const float* masks,
                              const float* boxes, int32_t* runs, void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  auto* const grids = static_cast<PasteGrid*>(workspace);
  LaunchGrids(parameters, boxes, grids, cuda_stream);
  const int64_t number = parameters.batch * parameters.num_boxes;
  RunsKernel<<<BlocksFor(number, 1), kThreadsOfBox, 0, cuda_stream>>>(parameters, masks, grids,
                                                                      runs);
  return LastCudaError();
}

}  // namespace kvision
