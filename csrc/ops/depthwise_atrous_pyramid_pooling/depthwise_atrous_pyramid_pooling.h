// Depthwise atrous pyramid pooling: the separable form of ASPP (Chen, Zhu, Papandreou, Schroff,
// Adam, "Encoder-Decoder with Atrous Separable Convolution", 2018), before its pointwise products.
//
//   x        (images, height, width, channels)
//   kernels  (kernel_size, kernel_size, channels) of each branch, one after the other
//   biases   (num_branches, channels)
//   output   (images, height, width, num_branches, channels)
//
// Branch n has a kernel of kernel_size x kernel_size taps, an odd number, that lie dilation_rate
// cells apart around the cell: of radius r, tap (i, j) reads the cell (i - r, j - r) * rate away,
// and
//   output[.., n, c] = activation(biases[n, c] + sum of kernel[i, j, c] * x[.., c])
// over the taps that fall on the image, in row-major order. One in the padding takes no part: it
// adds nothing even if the kernel is infinite there. ReLU keeps a NaN. Any size may be zero.
// Half types are summed in float, and rounded once.
//
// Gradients go to x, kernels and biases; behind a ReLU what arrives is zero where the output is not
// greater than zero. The sums over the image are cut in parts that depend on the sizes alone, so
// that no bit depends on the number of threads or the run. Multiplications are fused with sums
// where the instruction set can: bits differ between instruction sets.
//
// On the CPU the input is read once, some channels of it at a time, of which the rows that branches
// reach stay in the caches. Where there are too few channels and images for many threads, images
// are cut into bands, which share the rows at their borders. Memory beside the output: a thread
// keeps these rows, 2 * (kernel_size / 2) * rate + 1 of them, of 64 to 256 bytes of every pixel,
// and twice that of half types; going back, those of each branch. The backward pass takes up to 16
// times the kernels and biases, with CUDA up to 128 times.
#pragma once

#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"
#include "common/span.h"

namespace kvision {

inline constexpr int kDepthwiseAtrousMaxBranches = 16;
inline constexpr int64_t kDepthwiseAtrousMaxKernelSize = 63;
inline constexpr int64_t kDepthwiseAtrousMaxRate = int64_t{1} << 31;

struct DepthwiseAtrousBranch {
  int64_t kernel_size, dilation_rate;
  int64_t first_tap;  // in the kernels

  KVISION_HOST_DEVICE int64_t Radius() const { return kernel_size / 2; }
  KVISION_HOST_DEVICE int64_t Taps() const { return kernel_size * kernel_size; }
};

struct DepthwiseAtrousParameters {
  int64_t images, height, width, channels;
  int num_branches;
  DepthwiseAtrousBranch branches[kDepthwiseAtrousMaxBranches];
  bool relu;

  int64_t NumTaps() const {
    return branches[num_branches - 1].first_tap + branches[num_branches - 1].Taps();
  }
  KVISION_HOST_DEVICE int64_t Pixels() const { return images * height * width; }
};

// What is wrong with the kernels' sizes and their rates, as many of one as of the other, or with
// the sizes of the tensors, or nothing. Any of these may be kUnknownSize.
inline std::string CheckDepthwiseAtrous(Span<const int64_t> kernel_sizes, Span<const int64_t> rates,
                                        int64_t channels, int64_t num_weights,
                                        int64_t output_channels) {
  const char* const name = "depthwise_atrous_pyramid_pooling";
  if (rates.size < 1 || rates.size > kDepthwiseAtrousMaxBranches) {
    return Complaint(name, "between 1 and ", kDepthwiseAtrousMaxBranches,
                     " branches are taken. Received: ", rates.size, ".");
  }
  for (const int64_t rate : rates) {
    if (rate < 1 || rate > kDepthwiseAtrousMaxRate) {
      return Complaint(name, "`dilation_rates` must lie between 1 and 2^31. Received: ", rate, ".");
    }
  }
  int64_t taps = 0;
  for (const int64_t size : kernel_sizes) {
    if (size < 1 || size > kDepthwiseAtrousMaxKernelSize || size % 2 == 0) {
      return Complaint(name, "`kernel_sizes` must be odd and at most ",
                       kDepthwiseAtrousMaxKernelSize, ". Received: ", size, ".");
    }
    taps += size * size;
  }
  if (channels == kUnknownSize) return {};
  const auto of_channels = [&](const char* tensor, int64_t size, int64_t times) {
    if (size == kUnknownSize || size == times * channels) return std::string();
    return Complaint(name, "`", tensor, "` must have ", times, " numbers for each of ", channels,
                     " channels. Received: ", size, " of them.");
  };
  const std::string wrong = of_channels("kernels", num_weights, taps);
  return wrong.empty() ? of_channels("biases", output_channels, rates.size) : wrong;
}

template <typename T>
void DepthwiseAtrousForward(const DepthwiseAtrousParameters& parameters, const T* x,
                            const T* kernels, const T* biases, T* output, ParallelFor parallel_for);

template <typename T>
struct DepthwiseAtrousGradients {
  T *x, *kernels, *biases;
};

// Writes the whole of every gradient. `output` is looked at behind a ReLU alone.
template <typename T>
void DepthwiseAtrousBackward(const DepthwiseAtrousParameters& parameters, const T* output_gradient,
                             const T* output, const T* x, const T* kernels,
                             const DepthwiseAtrousGradients<T>& gradients,
                             ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t). They return null, or what CUDA says is
// wrong.
template <typename T>
const char* DepthwiseAtrousForwardCuda(const DepthwiseAtrousParameters& parameters, const T* x,
                                       const T* kernels, const T* biases, T* output, void* stream);

template <typename T>
const char* DepthwiseAtrousBackwardCuda(const DepthwiseAtrousParameters& parameters,
                                        const T* output_gradient, const T* output, const T* x,
                                        const T* kernels,
                                        const DepthwiseAtrousGradients<T>& gradients,
                                        void* workspace, void* stream);

// Bytes of device memory that DepthwiseAtrousBackwardCuda wants as its workspace.
template <typename T>
int64_t DepthwiseAtrousBackwardCudaWorkspace(const DepthwiseAtrousParameters& parameters);

}  // namespace kvision
