// What CUDA kernels and their launchers share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace kvision {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks that own `per_block` units each. A grid has room for 2^31 - 1 of them: hardly a GPU's
// memory has units for more, and a launch of more is an error.
inline unsigned BlocksFor(int64_t units, int64_t per_block) {
  return static_cast<unsigned>(
      std::min<int64_t>((units + per_block - 1) / per_block, std::numeric_limits<unsigned>::max()));
}

// The number of this thread along the first dimension of the grid.
__device__ inline int64_t ThreadInGrid() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// What is wrong with the launches so far, or null.
inline const char* LastCudaError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace kvision
