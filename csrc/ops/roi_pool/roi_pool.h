// RoIPool (Girshick, "Fast R-CNN", 2015): the maximum of a feature map in the bins of each box.
//
//   features  (batch, height, width, channels), fewer than 2^31 cells a map
//   boxes     (batch, num_boxes, 4), x1 y1 x2 y2 in pixels, float; double beside double features
//   output    (batch, num_boxes, output_height, output_width, channels)
//   argmax    of the shape of the output: the cell y * width + x that gave each value, or -1
//
// The corners of a box are scaled and rounded half away from zero to cells, both of which belong to
// it: its extent is last - first + 1, at least 1. A bin is extent / n long, and bin i covers the
// cells from first + floor(i * bin) up to, not including, first + ceil((i + 1) * bin) that lie on
// the map; bins next to one another may share cells. All of it is computed in the boxes' type.
//   - A value is the first of the largest in row-major order. A NaN is passed over like an infinity
//   below all; a bin of nothing else takes its first cell, whatever that holds.
//   - A bin without cells, as all of an empty map are: 0, and -1 as argmax.
//   - A box with a NaN or infinite corner, scaled or not, or an infinite extent: the same.
//   - Any size may be zero, and then there is nothing to do.
//
// The gradient of a value goes to its argmax alone. A cell's sum takes the bins in their order,
// half types in float, so that its bits depend on neither the number of threads nor the run. There
// is no gradient with respect to the boxes. Memory beside the output: the backward pass takes, for
// half types on the CPU, 64 bytes a cell of one map and thread, and with CUDA 16 bytes a box.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

inline constexpr int64_t kRoiPoolMaxCells = (int64_t{1} << 31) - 1;

struct RoiPoolParameters {
  int64_t batch, num_boxes, channels;
  int64_t height, width;
  int64_t output_height, output_width;
  double spatial_scale;

  KVISION_HOST_DEVICE int64_t Cells() const { return height * width; }
  KVISION_HOST_DEVICE int64_t Bins() const { return num_boxes * output_height * output_width; }
};

// What is wrong with the numbers, or nothing.
inline std::string CheckRoiPool(const RoiPoolParameters& parameters) {
  const auto& [batch, num_boxes, channels, height, width, output_height, output_width, scale] =
      parameters;
  if (output_height < 1 || output_width < 1) {
    return Complaint("roi_pool", "`output_height` and `output_width` must be positive. Received: ",
                     output_height, " and ", output_width, ".");
  }
  if (!(scale > 0) || !std::isfinite(scale)) {
    return Complaint("roi_pool", "`spatial_scale` must be positive and finite. Received: ", scale,
                     ".");
  }
  if (height > 0 && width > kRoiPoolMaxCells / height) {
    return Complaint("roi_pool", "a map must have fewer than 2^31 cells. Received: ", height,
                     " by ", width, ".");
  }
  return {};
}

// The type of the boxes beside features of type T.
template <typename T>
using RoiPoolBox = AccumulatorOf<T>;

template <typename T>
void RoiPoolForward(const RoiPoolParameters& parameters, const T* features,
                    const RoiPoolBox<T>* boxes, T* output, int32_t* argmax,
                    ParallelFor parallel_for);

// Writes the whole of the gradient. Off the map an argmax adds nothing.
template <typename T>
void RoiPoolBackward(const RoiPoolParameters& parameters, const T* output_gradient,
                     const int32_t* argmax, T* feature_gradient, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t). They return null, or what CUDA says is
// wrong.
template <typename T>
const char* RoiPoolForwardCuda(const RoiPoolParameters& parameters, const T* features,
                               const RoiPoolBox<T>* boxes, T* output, int32_t* argmax,
                               void* stream);

// The boxes must be those of the argmax: a cell looks for itself in the bins that it lies in.
template <typename T>
const char* RoiPoolBackwardCuda(const RoiPoolParameters& parameters, const T* output_gradient,
                                const int32_t* argmax, const RoiPoolBox<T>* boxes,
                                T* feature_gradient, void* workspace, void* stream);

// Bytes of device memory that RoiPoolBackwardCuda wants as its workspace.
int64_t RoiPoolBackwardCudaWorkspace(const RoiPoolParameters& parameters);

}  // namespace kvision
