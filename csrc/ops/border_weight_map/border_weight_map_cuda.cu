// A thread a pixel, three times: what lies on a border; the two nearest cells within the column;
// within the row of such. A thread looks farther and farther to both sides until its second cell is
// nearer than that.
#include <cstdint>

#include "common/launch.cuh"
#include "ops/border_weight_map/border_weight_map.h"

#define KVISION_ISA device
#include "ops/border_weight_map/nearest_cells.inc"
#undef KVISION_ISA

namespace kvision {
namespace {

constexpr int kThreads = 256;

using Cells = device::NearestCells<int32_t>;

// Numbers of all pixels, one kind after the other.
struct Planes {
  int32_t *id, *first, *second;

  __device__ Cells At(int64_t pixel, int32_t square) const {
    return {id[pixel], first[pixel] + square, second[pixel] + square};
  }
};

// Ids of borders, and 0 elsewhere.
__global__ void BorderIdsKernel(const int32_t* __restrict__ instances, int64_t total,
                                int32_t height, int32_t width, int32_t* __restrict__ ids) {
  const int64_t pixel = ThreadInGrid();
  if (pixel >= total) return;
  const auto x = static_cast<int32_t>(pixel % width);
  const auto y = static_cast<int32_t>(pixel / width % height);
  const int32_t id = instances[pixel];
  const bool on_border = (x > 0 && instances[pixel - 1] != id) ||
                         (x + 1 < width && instances[pixel + 1] != id) ||
                         (y > 0 && instances[pixel - width] != id) ||
                         (y + 1 < height && instances[pixel + width] != id);
  ids[pixel] = on_border && id > 0 ? id : 0;
}

// What the pixels up to `before` steps of `step` before this one and `behind` after it know, by
// `at(pixel, square of the distance)`. `kLast` where nobody else asks: then a pixel gives up too
// when d1 + d2 is over the reach whatever it finds.
template <bool kLast, typename At>
__device__ Cells NearestAlong(int64_t pixel, int64_t step, int32_t before, int32_t behind,
                              int32_t reach, const At& at) {
  Cells nearest = at(pixel, 0);
  const int32_t last = min(reach, max(before, behind));
  for (int32_t offset = 1; offset <= last; ++offset) {
    const int32_t square = offset * offset, left = reach - offset;
    if (nearest.second <= square) break;
    if (kLast && offset > left && nearest.first > left * left) break;
    if (offset <= before) nearest = Nearest(nearest, at(pixel - offset * step, square));
    if (offset <= behind) nearest = Nearest(nearest, at(pixel + offset * step, square));
  }
  return nearest;
}

__global__ void ColumnsKernel(const int32_t* __restrict__ ids, int64_t total, int32_t height,
                              int32_t width, int32_t reach, Planes planes) {
  const int64_t pixel = ThreadInGrid();
  if (pixel >= total) return;
  const auto y = static_cast<int32_t>(pixel / width % height);
  const Cells cells = NearestAlong<false>(
      pixel, width, y, height - 1 - y, reach, [ids](int64_t at, int32_t square) {
        const int32_t id = ids[at];
        return Cells{id, id > 0 ? square : kFarSquared, kFarSquared};
      });
  planes.id[pixel] = cells.id;
  planes.first[pixel] = cells.first;
  planes.second[pixel] = cells.second;
}

__global__ void RowsKernel(const int32_t* __restrict__ instances, Planes planes, int32_t reach,
                           BorderWeightMapParameters parameters, float scale,
                           float* __restrict__ output) {
  const int64_t pixel = ThreadInGrid();
  const auto width = static_cast<int32_t>(parameters.width);
  if (pixel >= parameters.batch * parameters.height * width) return;
  const auto x = static_cast<int32_t>(pixel % width);
  const Cells cells =
      NearestAlong<true>(pixel, 1, x, width - 1 - x, reach,
                         [planes](int64_t at, int32_t square) { return planes.At(at, square); });
  const float class_weight =
      instances[pixel] > 0 ? parameters.foreground_weight : parameters.background_weight;
  const float root =
      (sqrtf(static_cast<float>(cells.first)) + sqrtf(static_cast<float>(cells.second))) * scale;
  const float exponent = root * root;
  const bool counts = exponent <= kGreatestExponent && cells.second < kFarSquared;
  output[pixel] = class_weight + (counts ? parameters.border_weight * expf(-exponent) : 0.0f);
}

}  // namespace

int64_t BorderWeightMapCudaWorkspace(const BorderWeightMapParameters& parameters) {
  return 3 * parameters.batch * parameters.height * parameters.width * sizeof(int32_t);
}

const char* BorderWeightMapCuda(const BorderWeightMapParameters& parameters,
                                const int32_t* instances, float* output, void* workspace,
                                void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const auto height = static_cast<int32_t>(parameters.height);
  const auto width = static_cast<int32_t>(parameters.width);
  const int64_t total = parameters.batch * height * width;
  const int32_t reach = parameters.Reach();
  const unsigned blocks = BlocksFor(total, kThreads);
  int32_t* const numbers = static_cast<int32_t*>(workspace);
  const Planes planes{numbers, numbers + total, numbers + 2 * total};
  // The output is room for the ids until it is written.
  int32_t* const ids = reinterpret_cast<int32_t*>(output);
  BorderIdsKernel<<<blocks, kThreads, 0, cuda_stream>>>(instances, total, height, width, ids);
  ColumnsKernel<<<blocks, kThreads, 0, cuda_stream>>>(ids, total, height, width, reach, planes);
  RowsKernel<<<blocks, kThreads, 0, cuda_stream>>>(instances, planes, reach, parameters,
                                                   parameters.Scale(), output);
  return LastCudaError();
}

}  // namespace kvision
