// The CUDA stream on which TensorFlow runs an op, as the plain pointer that the CUDA launchers
// take. Needs no CUDA header.
#pragma once

#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace kvision {

inline void* StreamOf(tensorflow::OpKernelContext* ctx) {
  return ctx->op_device_context()->stream()->platform_specific_handle().stream;
}

}  // namespace kvision
