// Soft non-maximum suppression of one set of boxes (Bodla, Singh, Chellappa and Davis, ICCV 2017).
// What is a candidate, what IoU is and how scores are multiplied: common/score_decay.h.
//
//   boxes           (num_boxes, 4) float: x1, y1, x2, y2
//   scores          (num_boxes,) float
//   labels          (num_boxes,) int32: boxes of different labels do not see each other
//   indices         (size,) int32: boxes by order of selection, then -1
//   decayed_scores  (size,) float: their scores when they were selected, then 0
//   count           () int32: how many are selected
//
// The candidate with the greatest current score is selected, of equal ones that of the lowest
// index; then every other candidate's score is multiplied by a factor of its IoU `o` with it:
//
//   linear    1 - o where o > iou_threshold, else 1
//   gaussian  exp(-o^2 / sigma)
//
// in this order, each product rounded to float. A candidate is one as long as its score is greater
// than the score threshold. Thresholds are compared as the floats they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/score_decay.h"

namespace kvision {

struct SoftNmsAttributes {
  DecayMethod method;
  float sigma;          // positive, finite
  float iou_threshold;  // in [0, 1]
  float score_threshold;
  int64_t max_output_size;  // -1 for none, or at least 1

  KVISION_HOST_DEVICE float Factor(float iou) const {
    if (method == DecayMethod::kLinear) return iou > iou_threshold ? 1.0f - iou : 1.0f;
    return std::exp(-Product(iou, iou) / sigma);
  }
};

// What is wrong with the attributes, or nothing.
inline std::string CheckSoftNms(const SoftNmsAttributes& attributes) {
  const float threshold = attributes.iou_threshold;
  if (!(threshold >= 0.0f && threshold <= 1.0f)) {
    return Complaint("soft_nms", "`iou_threshold` must be in [0, 1]. Received: ", threshold, ".");
  }
  return CheckDecay("soft_nms", attributes.sigma, attributes.max_output_size);
}

// At most 2^31 - 1 boxes. Memory grows with the boxes, not with their pairs.
void SoftNmsCpu(const float* boxes, const float* scores, const int32_t* labels, int64_t num_boxes,
                const SoftNmsAttributes& attributes, int32_t* indices, float* decayed_scores,
                int32_t* count);

// `workspace` is device memory of SoftNmsCudaWorkspace bytes. The kernels run on `stream`, nothing
// waits for them. Returns null, or what CUDA says is wrong. The GPU's exp may differ from the
// CPU's in the last bit.
size_t SoftNmsCudaWorkspace(int64_t num_boxes);
const char* SoftNmsCuda(const float* boxes, const float* scores, const int32_t* labels,
                        int64_t num_boxes, const SoftNmsAttributes& attributes, void* workspace,
                        int32_t* indices, float* decayed_scores, int32_t* count, void* stream);

}  // namespace kvision
