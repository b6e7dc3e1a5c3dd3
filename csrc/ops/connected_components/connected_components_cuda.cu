// A thread a pixel. The sets stand where the labels are written in the end.
#include <cstdint>

#include "common/components.cuh"
#include "ops/connected_components/connected_components.h"

namespace kvision {
namespace {

PixelGrid GridOf(const ConnectedComponentsParameters& parameters) {
  return {parameters.batch, static_cast<int32_t>(parameters.height),
          static_cast<int32_t>(parameters.width)};
}

}  // namespace

int64_t ConnectedComponentsCudaWorkspace(const ConnectedComponentsParameters& parameters) {
  const PixelGrid grid = GridOf(parameters);
  return RoomFor(grid) + static_cast<int64_t>(SumsWorkspace(grid));
}

const char* ConnectedComponentsCuda(const ConnectedComponentsParameters& parameters,
                                    const bool* mask, int32_t* labels, void* workspace,
                                    void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const PixelGrid grid = GridOf(parameters);
  int32_t* const begins = static_cast<int32_t*>(workspace);
  void* const scratch = static_cast<char*>(workspace) + RoomFor(grid);
  FindSets(mask, false, grid, parameters.connectivity, labels, begins, cuda_stream);
  SumUp(grid, begins, scratch, cuda_stream);
  LabelsKernel<<<grid.Blocks(), kPixelThreads, 0, cuda_stream>>>(mask, grid, labels, begins,
                                                                 labels);
  return LastCudaError();
}

}  // namespace kvision
