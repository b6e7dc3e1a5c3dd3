// What a CUDA launcher needs of TensorFlow: the stream on which TensorFlow runs an op, device
// memory to work in, and a place for its errors. Needs no CUDA header.
#pragma once

#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace kvision {

inline void* StreamOf(tensorflow::OpKernelContext* ctx) {
  return ctx->op_device_context()->stream()->platform_specific_handle().stream;
}

inline absl::Status AllocateWorkspace(tensorflow::OpKernelContext* ctx, size_t bytes,
                                      tensorflow::Tensor* workspace) {
  return ctx->allocate_temp(tensorflow::DT_UINT8, {static_cast<int64_t>(bytes)}, workspace);
}

// `error` is what a launcher returned: null, or what is wrong.
inline absl::Status CudaStatus(const char* op, const char* error) {
  return error == nullptr ? absl::OkStatus() : absl::InternalError(absl::StrCat(op, ": ", error));
}

}  // namespace kvision
