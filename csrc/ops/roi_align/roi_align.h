// RoIAlign (He, Gkioxari, Dollár, Girshick, "Mask R-CNN", 2017) over one feature map or a pyramid
// of them.
//
//   features        maps (batch, height, width, channels), each of its own height and width
//   boxes           (batch, num_boxes, 4), x1 y1 x2 y2 in pixels, float; double beside double
//                   features
//   levels          (batch, num_boxes), the map that a box reads
//   spatial_scales  (num_levels,), the scale of each map
//   output          (batch, num_boxes, output_height, output_width, channels)
//
// A box scaled to its map, and shifted by half a cell if `aligned`, is cut into equal bins. A bin
// is the mean over a grid of bilinear samples: `sampling_ratio` a side, or ceil(bin extent) a side
// if that is 0. Nothing is rounded, and every step of the geometry is done in the boxes' type in
// the order of torchvision's, because counts and map borders are decided by it.
//   - A sample at most one cell outside the map reads the border cell; one farther off counts as
//   zero.
//   - Not `aligned`, the extent of a box is raised to one cell. `aligned`, a box of no or negative
//   extent has no samples in the adaptive grid, so its bins are zero; in a fixed grid its samples
//   are taken as they lie.
//   - A box with a NaN or infinite corner, scaled or not, or an infinite extent, and a box whose
//   level does not exist: zeros, and no gradient.
//   - An empty map reads as zeros. Any size may be zero, and then there is nothing to do.
// Samples off the map are counted, not visited: a box costs no more than one that covers its map.
// Half types are summed in float. The gradient with respect to the features sums the boxes of an
// image in their order for every cell, so that its bits depend on neither the number of threads nor
// the run; multiplications are fused with sums where the instruction set can, so that bits differ
// between instruction sets. There is no gradient with respect to the boxes.
//
// Memory beside the output: the forward pass takes 32 to 40 bytes a box. The backward pass takes 24
// bytes for each map row and for each map column that a bin reads, 80 bytes a box and thread, and a
// thread 64 KB, beside half types 256 bytes a channel more; with CUDA it takes 16 bytes a box, and
// the forward pass nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

#include "common/half.h"
#include "common/parallel.h"
#include "common/shapes.h"
#include "common/span.h"

namespace kvision {

inline constexpr int kRoiAlignMaxLevels = 8;
inline constexpr int64_t kRoiAlignMaxSamplingRatio = 128;

struct RoiAlignParameters {
  int64_t batch, num_boxes, channels;
  int64_t output_height, output_width;
  int64_t sampling_ratio;
  bool aligned;
};

// What is wrong with the numbers that do not depend on the tensors' shapes, or nothing.
inline std::string CheckRoiAlign(int64_t num_levels, int64_t sampling_ratio) {
  if (num_levels < 1 || num_levels > kRoiAlignMaxLevels) {
    return Complaint("roi_align", "between 1 and ", kRoiAlignMaxLevels,
                     " feature levels are taken. Received: ", num_levels, ".");
  }
  if (sampling_ratio < 0 || sampling_ratio > kRoiAlignMaxSamplingRatio) {
    return Complaint("roi_align", "`sampling_ratio` must lie between 0 (adaptive) and ",
                     kRoiAlignMaxSamplingRatio, ". Received: ", sampling_ratio, ".");
  }
  return {};
}

inline std::string CheckRoiAlignOutputSize(int64_t height, int64_t width) {
  if (height >= 1 && width >= 1) return {};
  return Complaint("roi_align",
                   "`output_height` and `output_width` must be positive. Received: ", height,
                   " and ", width, ".");
}

inline std::string CheckRoiAlignScale(double scale) {
  if (scale > 0 && std::isfinite(scale)) return {};
  return Complaint("roi_align", "`spatial_scales` must be positive and finite. Received: ", scale,
                   ".");
}

template <typename T>
struct RoiAlignLevel {
  T* data;
  int64_t height, width;
  double spatial_scale;
};

// The type of the boxes beside features of type T, and of the geometry and the sums.
template <typename T>
using RoiAlignBox = AccumulatorOf<T>;

template <typename T>
void RoiAlignForward(const RoiAlignParameters& parameters,
                     Span<const RoiAlignLevel<const T>> levels, const RoiAlignBox<T>* boxes,
                     const int32_t* box_levels, T* output, ParallelFor parallel_for);

// Writes the whole of every level.
template <typename T>
void RoiAlignBackward(const RoiAlignParameters& parameters, const T* output_gradient,
                      const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                      Span<const RoiAlignLevel<T>> level_gradients, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t); boxes and maps are device memory. They
// return null, or what CUDA says is wrong.
template <typename T>
const char* RoiAlignForwardCuda(const RoiAlignParameters& parameters,
                                Span<const RoiAlignLevel<const T>> levels,
                                const RoiAlignBox<T>* boxes, const int32_t* box_levels, T* output,
                                void* stream);

template <typename T>
const char* RoiAlignBackwardCuda(const RoiAlignParameters& parameters, const T* output_gradient,
                                 const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                                 Span<const RoiAlignLevel<T>> level_gradients, void* workspace,
                                 void* stream);

// Bytes of device memory that RoiAlignBackwardCuda wants as its workspace.
int64_t RoiAlignBackwardCudaWorkspace(const RoiAlignParameters& parameters);

}  // namespace kvision
