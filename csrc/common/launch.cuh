// What launchers of CUDA kernels share.
#pragma once

#include <cuda_runtime.h>

namespace kvision {

// What is wrong with the launches so far, or null.
inline const char* LastCudaError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace kvision
