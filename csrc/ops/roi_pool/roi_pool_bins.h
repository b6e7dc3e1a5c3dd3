// Which cells the bins of a box cover: geometry that the CPU and the CUDA kernels share.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"
#include "ops/roi_pool/roi_pool.h"

namespace kvision {

// The cells [begin, end) of an axis.
struct RoiPoolCells {
  int64_t begin, end;
};

// One axis of one box: where its bins begin and how long each is, on a map of `size` cells.
template <typename F>
struct RoiPoolAxis {
  F start, bin_extent;
  int64_t size;

  KVISION_HOST_DEVICE RoiPoolCells CellsOf(int64_t bin) const {
    return {OnMap(std::floor(static_cast<F>(bin) * bin_extent) + start),
            OnMap(std::ceil(static_cast<F>(bin + 1) * bin_extent) + start)};
  }

 private:
  // Compared before it is converted: a huge box lies beyond every integer type.
  KVISION_HOST_DEVICE int64_t OnMap(F cell) const {
    if (!(cell > F(0))) return 0;
    return cell < static_cast<F>(size) ? static_cast<int64_t>(cell) : size;
  }
};

template <typename F>
struct RoiPoolGrid {
  RoiPoolAxis<F> rows, columns;
};

// `box` is its four corners. One that is not finite is given a map without cells.
template <typename F>
KVISION_HOST_DEVICE inline RoiPoolGrid<F> MakeRoiPoolGrid(const F* box,
                                                          const RoiPoolParameters& parameters) {
  const F scale = static_cast<F>(parameters.spatial_scale);
  const F x1 = std::round(box[0] * scale), y1 = std::round(box[1] * scale);
  const F x2 = std::round(box[2] * scale), y2 = std::round(box[3] * scale);
  F width = x2 - x1 + F(1), height = y2 - y1 + F(1);
  if (!(std::isfinite(x1) && std::isfinite(y1) && std::isfinite(width) && std::isfinite(height))) {
    return {{F(0), F(0), 0}, {F(0), F(0), 0}};
  }
  width = width > F(1) ? width : F(1);
  height = height > F(1) ? height : F(1);
  return {{y1, height / static_cast<F>(parameters.output_height), parameters.height},
          {x1, width / static_cast<F>(parameters.output_width), parameters.width}};
}

}  // namespace kvision
