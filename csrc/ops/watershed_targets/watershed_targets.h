// What a deep watershed network is taught (Bai, Urtasun, "Deep Watershed Transform for Instance
// Segmentation", 2017), from a label map; and the first part alone, the distance transform.
//
//   instances  (batch, height, width) int32: an instance's id, greater than 0, or background
//   distance   (batch, height, width) float: Euclidean, to the nearest pixel outside the instance
//   direction  (batch, height, width, 2) float: x and y of the unit vector along which the distance
//              grows: the distance's gradient by Sobel's filter
//   level      (batch, height, width) int32: k where edge k < distance <= edge k + 1
//   weight     (batch, height, width) float: 200 / sqrt(pixels of the instance)
//
// All are 0 on the background, and in instances of fewer than `min_area` pixels.
//   - Pixels of one id are one instance, connected or not. Outside is every pixel of another id, of
//     background or of an instance. Distances are between pixel centres and exact: roots of
//     integers.
//   - What lies beyond the image is outside if `image_border_is_outside`, as if a frame of
//     background was drawn around it; and for an instance that fills the image, which has no other.
//     Else it is nothing, and the filter sees the image's last pixel again.
//   - The filter sees the instance's own distance: 0 on every pixel outside. The direction is
//     (0, 0) on ridges, where both sums of the filter are zero but for the rounding of their terms.
//   - The level is the number of edges, from the second on, that are less than the distance: what
//     is not over the second edge has level 0, and the last level is open.
//   - Any size may be zero, and then there is nothing to do.
//
// The output depends neither on the number of threads nor on the instruction set. Memory beside
// it: 2 bytes a pixel of one image on the CPU; 4 bytes a pixel on a GPU, and there 16 to 32 more
// for the areas.
//
// How: first the distance within the pixel's column; then, along its row, the least of
// (x - x')^2 + (distance of x' within its column)^2.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "common/parallel.h"
#include "common/shapes.h"
#include "common/span.h"

namespace kvision {

// More than the square of any distance in an image; with such a square it fits in 32 bits.
constexpr int32_t kFarSquared = 1 << 30;
// 2 (kMaxSide + 1)^2 < kFarSquared.
constexpr int64_t kWatershedTargetsMaxSide = 23169;
constexpr int64_t kMaxLevels = 256;
constexpr float kWeightOfOnePixel = 200.0f;
// A sum of Sobel's filter over the distance at its centre, below which it is rounding: of eight
// roots, each of them at most 1.5 farther, and of their sums.
constexpr float kRoundingOfSlope = 0x1p-20f;

struct WatershedTargetsParameters {
  int64_t batch, height, width;
  bool image_border_is_outside = false;
  int64_t min_area = 0;
  Span<const float> level_edges = {nullptr, 0};
};

// `direction`, `level` and `weight` are null together: then the distance alone is computed.
struct WatershedTargets {
  float* distance;
  float* direction = nullptr;
  int32_t* level = nullptr;
  float* weight = nullptr;

  bool distance_alone() const { return direction == nullptr; }
};

// What is wrong with the size of an image, or nothing.
inline std::string CheckImageSize(const char* op, int64_t height, int64_t width) {
  if (std::max(height, width) <= kWatershedTargetsMaxSide) return {};
  return Complaint(op, "an image must be at most ", kWatershedTargetsMaxSide,
                   " pixels high and wide. Received: ", height, " by ", width, ".");
}

// What is wrong with the edges of the levels, or nothing.
inline std::string CheckLevelEdges(Span<const float> edges) {
  bool rise = edges.size >= 1 && edges.size <= kMaxLevels;
  for (int64_t i = 0; rise && i < edges.size; ++i) {
    rise = std::isfinite(edges[i]) && (i == 0 || edges[i - 1] < edges[i]);
  }
  if (rise) return {};
  return Complaint("watershed_targets", "`level_edges` must be 1 to ", kMaxLevels,
                   " finite numbers, each greater than the one before. Received ", edges.size,
                   " numbers.");
}

inline std::string CheckMinArea(int64_t min_area) {
  if (min_area >= 0) return {};
  return Complaint("watershed_targets", "`min_area` must be at least 0. Received: ", min_area, ".");
}

void WatershedTargetsCpu(const WatershedTargetsParameters& parameters, const int32_t* instances,
                         const WatershedTargets& targets, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), with WatershedTargetsCudaWorkspace bytes
// of its memory. Returns null, or what CUDA says is wrong.
int64_t WatershedTargetsCudaWorkspace(const WatershedTargetsParameters& parameters,
                                      bool distance_alone);
const char* WatershedTargetsCuda(const WatershedTargetsParameters& parameters,
                                 const int32_t* instances, const WatershedTargets& targets,
                                 void* workspace, void* stream);

}  // namespace kvision
