// Where the samples of a box lie: geometry that the CPU and the CUDA kernels share.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/bilinear.h"
#include "common/host_device.h"
#include "common/roi_align_axis.h"
#include "ops/roi_align/roi_align.h"

namespace kvision {

template <typename F>
struct RoiAlignGrid {
  RoiAlignAxis<F> rows, columns;
  bool valid;
};

// `box` is its four corners.
template <typename F>
KVISION_HOST_DEVICE inline RoiAlignGrid<F> MakeRoiAlignGrid(const F* box, double spatial_scale,
                                                            int64_t height, int64_t width,
                                                            const RoiAlignParameters& parameters) {
  const F scale = static_cast<F>(spatial_scale);
  const F shift = parameters.aligned ? F(0.5) : F(0);
  const F x1 = Multiply(box[0], scale) - shift, y1 = Multiply(box[1], scale) - shift;
  const F x2 = Multiply(box[2], scale) - shift, y2 = Multiply(box[3], scale) - shift;
  F box_width = x2 - x1, box_height = y2 - y1;
  const bool valid = std::isfinite(x1) && std::isfinite(y1) && std::isfinite(box_width) &&
                     std::isfinite(box_height);
  if (!parameters.aligned) {
    box_width = box_width > F(1) ? box_width : F(1);
    box_height = box_height > F(1) ? box_height : F(1);
  }
  return {
      MakeRoiAlignAxis(y1, box_height, parameters.output_height, parameters.sampling_ratio, height),
      MakeRoiAlignAxis(x1, box_width, parameters.output_width, parameters.sampling_ratio, width),
      valid};
}

// The map that a box reads and its grid there; not valid if there is nothing to read.
template <typename F, typename Level>
inline RoiAlignGrid<F> RoiAlignGridOf(int64_t box, const RoiAlignParameters& parameters,
                                      Span<const Level> levels, const F* boxes,
                                      const int32_t* box_levels) {
  const int32_t index = box_levels[box];
  if (index < 0 || index >= levels.size) return {};
  const Level& level = levels[index];
  return MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale, level.height, level.width,
                          parameters);
}

}  // namespace kvision
