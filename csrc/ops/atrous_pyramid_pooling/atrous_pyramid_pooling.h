// Atrous pyramid pooling (Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for
// Semantic Image Segmentation", 2017): convolutions of one input at several dilation rates, one
// beside the other in the channels of one output.
//
//   x        (images, height, width, in_channels)
//   kernels  of every branch (kernel_height, kernel_width, in_channels, its filters)
//   biases   (filters,), those of all branches one after the other, as are the output's channels
//   output   (images, height, width, filters)
//
// The stride is 1 and the padding zeros, as many as keep height and width: of k taps `rate` apart,
// floor((k - 1) * rate / 2) steps lie before the pixel. With `relu`, what is below zero becomes
// zero; a NaN stays.
//   - A tap that falls into the padding takes no part: there is no product with its zeros. Only
//   with CUDA is there one where the tap finds the map from another pixel of the tile; a weight
//   that is not finite tells the difference.
//   - Any size may be zero, that of a kernel too. Without taps or input channels the output holds
//   the biases.
// The op and its two gradients, all without the ReLU, are linear in either of their tensors, and
// each is the derivative of the others.
//
// Half types are summed in float. The terms of a sum have one order: kAtrousDepth channels at a
// time the taps one after the other (of the kernels' gradient, so many pixels), each such part
// being summed before it joins the rest. So the bits depend on neither the number of threads nor
// the run. Multiplications are fused with sums where the instruction set can, so that bits differ
// between instruction sets.
//
// Memory beside the output, of each thread: up to 1.5 MB, in double 3 MB, and going back to the
// kernels 16 bytes a pixel; with CUDA none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"
#include "common/span.h"

namespace kvision {

inline constexpr int64_t kAtrousMaxBranches = 16;
inline constexpr int64_t kAtrousMaxRate = (int64_t{1} << 31) - 1;

struct AtrousMap {
  int64_t images, height, width;
  int64_t in_channels, filters;  // those of all branches

  KVISION_HOST_DEVICE int64_t Pixels() const { return images * height * width; }
};

// A branch; `kernel` is read, or written where it is a gradient.
template <typename T>
struct AtrousBranch {
  T* kernel;
  int64_t kernel_height, kernel_width, filters;
  int64_t rate;
  int64_t first_filter;  // among those of all branches

  KVISION_HOST_DEVICE int64_t Taps() const { return kernel_height * kernel_width; }
};

// The pixels of an axis, [begin, end), that a tap `offset` pixels away finds on the map.
struct AtrousReach {
  int64_t offset, begin, end;
};

KVISION_HOST_DEVICE inline AtrousReach ReachOfTap(int64_t tap, int64_t taps, int64_t rate,
                                                  int64_t size) {
  const int64_t offset = tap * rate - (taps - 1) * rate / 2;
  const int64_t begin = offset < 0 ? -offset : 0, end = offset > 0 ? size - offset : size;
  return {offset, begin < size ? begin : size, end > 0 ? end : 0};
}

inline std::string CheckAtrousRates(int64_t num_branches, Span<const int64_t> rates) {
  if (num_branches < 1 || num_branches > kAtrousMaxBranches) {
    return Complaint("atrous_pyramid_pooling", "between 1 and ", kAtrousMaxBranches,
                     " kernels are taken. Received: ", num_branches, ".");
  }
  for (const int64_t rate : rates) {
    if (rate < 1 || rate > kAtrousMaxRate) {
      return Complaint("atrous_pyramid_pooling", "`dilation_rates` must lie between 1 and ",
                       kAtrousMaxRate, ". Received: ", rate, ".");
    }
  }
  return {};
}

template <typename T>
void AtrousPyramidForward(const AtrousMap& map, const T* x,
                          Span<const AtrousBranch<const T>> branches, const T* biases, bool relu,
                          T* output, ParallelFor parallel_for);

// The gradient with respect to x.
template <typename T>
void AtrousPyramidBackward(const AtrousMap& map, const T* output_gradient,
                           Span<const AtrousBranch<const T>> branches, T* x_gradient,
                           ParallelFor parallel_for);

// The gradient with respect to the kernels.
template <typename T>
void AtrousPyramidKernelBackward(const AtrousMap& map, const T* x, const T* output_gradient,
                                 Span<const AtrousBranch<T>> kernel_gradients,
                                 ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), where all tensors are. They return null,
// or what CUDA says is wrong.
template <typename T>
const char* AtrousPyramidForwardCuda(const AtrousMap& map, const T* x,
                                     Span<const AtrousBranch<const T>> branches, const T* biases,
                                     bool relu, T* output, void* stream);

template <typename T>
const char* AtrousPyramidBackwardCuda(const AtrousMap& map, const T* output_gradient,
                                      Span<const AtrousBranch<const T>> branches, T* x_gradient,
                                      void* stream);

template <typename T>
const char* AtrousPyramidKernelBackwardCuda(const AtrousMap& map, const T* x,
                                            const T* output_gradient,
                                            Span<const AtrousBranch<T>> kernel_gradients,
                                            void* stream);

}  // namespace kvision
