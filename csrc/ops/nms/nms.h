// Non-maximum suppression of one set of boxes. The rule and its edge cases: common/suppression.h.
//
//   boxes    (num_boxes, 4) float: x1, y1, x2, y2
//   scores   (num_boxes,) float
//   indices  (size,) int32: boxes kept by descending score, then -1
//   count    () int32: how many are kept
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/shapes.h"

namespace kvision {

struct NmsAttributes {
  float iou_threshold;
  float score_threshold;
  int64_t max_output_size;  // kNoMaximum, or at least 1
};

constexpr int64_t kNoMaximum = -1;

inline int64_t NmsOutputSize(int64_t num_boxes, int64_t max_output_size) {
  return max_output_size == kNoMaximum ? num_boxes : max_output_size;
}

// What is wrong with the attributes, or nothing.
inline std::string CheckNms(const NmsAttributes& attributes) {
  const float threshold = attributes.iou_threshold;
  if (!(threshold >= 0.0f && threshold <= 1.0f)) {
    return Complaint("nms", "`iou_threshold` must be in [0, 1]. Received: ", threshold, ".");
  }
  const int64_t size = attributes.max_output_size;
  if (size != kNoMaximum && (size < 1 || size > INT32_MAX)) {
    return Complaint("nms", "`max_output_size` must be positive, or -1 for none. Received: ", size,
                     ".");
  }
  return {};
}

// At most 2^31 - 1 boxes.
void NmsCpu(const float* boxes, const float* scores, int64_t num_boxes,
            const NmsAttributes& attributes, int32_t* indices, int32_t* count);

// `workspace` is device memory of NmsCudaWorkspace bytes. The kernels run on `stream`, nothing
// waits for them. Returns null, or what CUDA says is wrong.
size_t NmsCudaWorkspace(int64_t num_boxes);
const char* NmsCuda(const float* boxes, const float* scores, int64_t num_boxes,
                    const NmsAttributes& attributes, void* workspace, int32_t* indices,
                    int32_t* count, void* stream);

}  // namespace kvision
