// Which box of the ground truth, if any, each candidate stands for (Ren, He, Girshick, Sun, "Faster
// R-CNN", 2015, section 3.1.2).
//
//   candidates  (batch or 1, num_candidates, 4) float: x1 y1 x2 y2; 1 where images share them
//   boxes       (batch, num_boxes, 4) float: the ground truth
//   valid       (batch, num_boxes) bool: boxes that candidates may stand for
//   crowd       (batch, num_boxes) bool: boxes of regions that teach nothing
//   matches     (batch, num_candidates) int32: the valid box of the greatest IoU, the first of
//               equal ones; 0 where none is valid
//   status      (batch, num_candidates) int32: 1 positive, 0 negative, -1 ignored
//
// A candidate is positive if its greatest IoU is at least the positive threshold, negative if it is
// less than the negative one (as it is where no box is valid), else ignored.
//   - With `allow_low_quality`, candidates whose IoU with a valid box is the greatest that the box
//     has, and not 0, are positive too; they keep their own match.
//   - A negative candidate is ignored if its intersection with a crowd box is greater than
//     `crowd_overlap` times its own area.
// IoU is intersection / (area of box + area of candidate - intersection) in float, each step
// rounded; reversed sides are 0, and so is an IoU that is NaN. No matrix of IoUs is kept: beside
// the output, 4 bytes a box and 256 candidates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

struct MatchBoxesShape {
  int64_t batch, num_candidates, num_boxes;
  bool shared_candidates;
};

struct MatchBoxesAttributes {
  float positive_threshold, negative_threshold, crowd_overlap;
  bool allow_low_quality;
};

constexpr int32_t kPositive = 1, kNegative = 0, kIgnored = -1;

// What is wrong with the attributes, or nothing.
inline std::string CheckMatchBoxes(const MatchBoxesAttributes& attributes) {
  const float positive = attributes.positive_threshold, negative = attributes.negative_threshold;
  if (positive >= negative) return {};
  return Complaint("match_boxes",
                   "`positive_threshold` must be at least `negative_threshold`. Received: ",
                   positive, " and ", negative, ".");
}

// At most 2^31 - 1 boxes an image.
void MatchBoxesCpu(const float* boxes, const bool* valid, const bool* crowd,
                   const float* candidates, const MatchBoxesShape& shape,
                   const MatchBoxesAttributes& attributes, int32_t* matches, int32_t* status,
                   ParallelFor parallel_for);

// `workspace` is device memory of MatchBoxesCudaWorkspace bytes. The kernels run on `stream`,
// nothing waits for them. Returns null, or what CUDA says is wrong.
size_t MatchBoxesCudaWorkspace(const MatchBoxesShape& shape);
const char* MatchBoxesCuda(const float* boxes, const bool* valid, const bool* crowd,
                           const float* candidates, const MatchBoxesShape& shape,
                           const MatchBoxesAttributes& attributes, void* workspace,
                           int32_t* matches, int32_t* status, void* stream);

}  // namespace kvision
