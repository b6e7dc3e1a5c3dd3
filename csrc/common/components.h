// The connected components of masks: rows to runs of pixels, runs to disjoint sets.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/bit_masks.h"
#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

// What is wrong with the arguments of an op that labels components, or nothing. Sizes may be
// unknown.
inline std::string CheckComponents(const char* op, int64_t connectivity, int64_t height,
                                   int64_t width) {
  if (connectivity != 4 && connectivity != 8) {
    return Complaint(op, "`connectivity` must be 4 or 8. Received: ", connectivity, ".");
  }
  if (height > 0 && width > std::numeric_limits<int32_t>::max() / height) {
    return Complaint(op, "an image must have less than 2^31 pixels. Received: ", height, " by ",
                     width, ".");
  }
  return {};
}

// The components of each of a row of images, numbered from 1 in raster order of their first
// pixels. Memory: 4 bytes a run of pixels.
class Components {
 public:
  // `masks` are images of `height` rows, and must outlive this.
  Components(const BitMasks& masks, int64_t height, int64_t connectivity, ParallelFor parallel_for);

  int32_t Count(int64_t image) const { return counts_[image]; }

  // The number of pixels of each component of an image; entry 0 is that of none.
  std::vector<int32_t> Areas(int64_t image) const;

  // Calls visit(begin, end, label) for every run of a row, from left to right.
  template <typename Visit>
  void ForEachRunOf(int64_t row, Visit&& visit) const {
    const int32_t* label = labels_.get() + first_run_[row];
    ForEachRun(masks_[row], masks_.width,
               [&](int64_t begin, int64_t end) { visit(begin, end, *label++); });
  }

  // The labels of a row's pixels, 0 where the mask is not set.
  void WriteRow(int64_t row, int32_t* output) const;

 private:
  const BitMasks& masks_;
  const int64_t height_;
  std::vector<int64_t> first_run_;     // of every row
  std::unique_ptr<int32_t[]> labels_;  // of every run; first another run of its set, or itself
  std::vector<int32_t> counts_;
};

}  // namespace kvision
