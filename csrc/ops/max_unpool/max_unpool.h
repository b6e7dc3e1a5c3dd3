// Max unpooling: each value goes to the cell of a map that it is said to come from, and the others
// are 0. The transpose of gathering, which is its gradient and stands here too.
//
//   x        (batch, output_height, output_width, channels): of max_pool_with_argmax
//   argmax   of the shape of x: cells y * width + x of the map
//   map      (batch, height, width, channels), fewer than 2^31 cells
//
//   - Values that fall on one cell, as those of windows that overlap do, are summed in row-major
//     order, from 0 on: bits depend on neither the number of threads nor the run. Half types are
//     summed in float and rounded once.
//   - An argmax off the map is an error on the CPU. CUDA kernels, which nobody waits for, leave its
//     value out, and gather a 0.
//   - Any size may be zero, and then there is nothing to do.
//
// Memory beside the output, where values overlap: on the CPU 16 bytes a row of values and, for half
// types, 4 bytes a value of the rows of a map that a thread works on; with CUDA 16 bytes a value's
// position, which all channels share.
#pragma once

#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

inline constexpr int64_t kMaxUnpoolMaxCells = (int64_t{1} << 31) - 1;

struct MaxUnpoolParameters {
  int64_t batch, channels;
  int64_t height, width;
  int64_t output_height, output_width;  // of x

  KVISION_HOST_DEVICE int64_t Cells() const { return height * width; }
  KVISION_HOST_DEVICE int64_t Positions() const { return output_height * output_width; }
  // Whether each position can have a block of cells of its own.
  bool HaveBlocks() const {
    return Positions() > 0 && output_height <= height && output_width <= width;
  }
};

// What is wrong with the numbers, or nothing.
inline std::string CheckMaxUnpool(const MaxUnpoolParameters& parameters) {
  const int64_t height = parameters.height, width = parameters.width;
  if (height > 0 && width > kMaxUnpoolMaxCells / height) {
    return Complaint("max_unpool", "a map must have fewer than 2^31 cells. Received: ", height,
                     " by ", width, ".");
  }
  return {};
}

// Writes the whole map. Returns the first index of `argmax` whose cell is off the map, or -1; what
// is in the map then is not defined.
template <typename T>
int64_t MaxUnpool(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax, T* map,
                  ParallelFor parallel_for);

// The value of the map at each argmax. Returns the same.
template <typename T>
int64_t MaxUnpoolGradient(const MaxUnpoolParameters& parameters, const T* map,
                          const int32_t* argmax, T* x_gradient, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t). They return null, or what CUDA says is
// wrong.
template <typename T>
const char* MaxUnpoolCuda(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax,
                          T* map, void* workspace, void* stream);
template <typename T>
const char* MaxUnpoolGradientCuda(const MaxUnpoolParameters& parameters, const T* map,
                                  const int32_t* argmax, T* x_gradient, void* stream);

// Bytes of device memory that MaxUnpoolCuda wants as its workspace.
int64_t MaxUnpoolCudaWorkspace(const MaxUnpoolParameters& parameters);

// Windows that do not overlap lie in a grid of blocks, which the sizes alone tell: this is the side
// of a block, along one axis, on which the values are looked for first. The last one reaches to the
// end of the axis.
KVISION_HOST_DEVICE inline int64_t MaxUnpoolBlock(int64_t size, int64_t windows) {
  const int64_t up = (size + windows - 1) / windows;  // as where odd sizes were padded
  return (windows - 1) * up < size ? up : size / windows;
}

}  // namespace kvision
