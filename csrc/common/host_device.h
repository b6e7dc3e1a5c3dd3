// One spelling for functions that CPU and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define KVISION_HOST_DEVICE __host__ __device__
#else
#define KVISION_HOST_DEVICE
#endif
