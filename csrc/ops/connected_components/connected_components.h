// The connected components of masks.
//
//   mask     (batch, height, width) bool
//   labels   (batch, height, width) int32: the number of the pixel's component, or 0 where the mask
//            is not set
//
// Pixels of the mask that are neighbours belong to one component: of a pixel's eight neighbours,
// the four that share a side, or all. The components of an image are numbered from 1 in raster
// order of their first pixels. Any size may be zero, and then there is nothing to do.
//
// Memory beside the labels: on the CPU a bit a pixel and 4 bytes a run of pixels in a row, on a GPU
// 4 bytes a pixel.
#pragma once

#include <cstdint>
#include <string>

#include "common/components.h"
#include "common/parallel.h"

namespace kvision {

struct ConnectedComponentsParameters {
  int64_t batch, height, width;
  int64_t connectivity;  // 4 or 8
};

inline std::string CheckConnectedComponents(const ConnectedComponentsParameters& parameters) {
  return CheckComponents("connected_components", parameters.connectivity, parameters.height,
                         parameters.width);
}

void ConnectedComponentsCpu(const ConnectedComponentsParameters& parameters, const bool* mask,
                            int32_t* labels, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), with ConnectedComponentsCudaWorkspace
// bytes of its memory. Returns null, or what CUDA says is wrong.
int64_t ConnectedComponentsCudaWorkspace(const ConnectedComponentsParameters& parameters);
const char* ConnectedComponentsCuda(const ConnectedComponentsParameters& parameters,
                                    const bool* mask, int32_t* labels, void* workspace,
                                    void* stream);

}  // namespace kvision
