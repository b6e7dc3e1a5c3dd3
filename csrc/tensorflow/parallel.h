// TensorFlow's own thread pool as the kernels' ParallelFor.
#pragma once

#include "common/parallel.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace kvision {

// Pass it on at once: `RoiAlignCpu(..., PoolFor(ctx))`.
inline auto PoolFor(tensorflow::OpKernelContext* ctx) {
  tensorflow::thread::ThreadPool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t total, int64_t cost, RangeBody body) {
    pool->ParallelFor(total, tensorflow::thread::ThreadPool::SchedulingParams::Adaptive(cost),
                      [&body](int64_t begin, int64_t end) { body(begin, end); });
  };
}

}  // namespace kvision
