// Matrix non-maximum suppression of one set of boxes (Wang, Zhang, Kong, Li and Shen, SOLOv2,
// NeurIPS 2020). What is a candidate, what IoU is and how scores are multiplied:
// common/score_decay.h.
//
//   boxes           (num_boxes, 4) float: x1, y1, x2, y2
//   scores          (num_boxes,) float
//   labels          (num_boxes,) int32: boxes of different labels do not see each other
//   indices         (size,) int32: boxes by descending decayed score, equal ones by ascending
//                   index, then -1
//   decayed_scores  (size,) float: their decayed scores, then 0
//   count           () int32: how many there are
//
// Candidates are ordered by descending score, equal scores by ascending index. Box j's score is
// multiplied by its decay, the least over all boxes i before it of f(IoU_ij) / f(c_i), at most 1,
// where c_i is the greatest IoU of box i with a box before it, 0 for the first:
//
//   linear    f(x) = 1 - x. A box i with c_i = 1 decays no other: the quotient has no finite value,
//             and the better box that i repeats decays the others in its place.
//   gaussian  f(x) = exp(-sigma x^2). The quotient is exp(-sigma (IoU_ij^2 - c_i^2)), which always
//             has a value.
//
// Boxes whose decayed score is greater than the score threshold are returned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/parallel.h"
#include "common/score_decay.h"

namespace kvision {

struct MatrixNmsAttributes {
  DecayMethod method;
  float sigma;  // positive, finite
  float score_threshold;
  int64_t max_output_size;  // -1 for none, or at least 1
};

// The decay of a box, from the boxes before it one by one, in any order.
class MatrixNmsDecay {
 public:
  KVISION_HOST_DEVICE explicit MatrixNmsDecay(const MatrixNmsAttributes& attributes)
      : linear_(attributes.method == DecayMethod::kLinear),
        sigma_(attributes.sigma),
        least_(linear_ ? 1.0f : 0.0f) {}

  // A box before it: their IoU, and that box's own greatest IoU with a box before it.
  KVISION_HOST_DEVICE void Include(float iou, float greatest_iou) {
    IncludeTerm(linear_ ? (1.0f - iou) / (1.0f - greatest_iou)
                        : Product(greatest_iou, greatest_iou) - Product(iou, iou));
  }

  // The least term of another set of boxes before it. NaN is less than nothing.
  KVISION_HOST_DEVICE void IncludeTerm(float term) { least_ = term < least_ ? term : least_; }

  KVISION_HOST_DEVICE float LeastTerm() const { return least_; }
  KVISION_HOST_DEVICE float Factor() const { return linear_ ? least_ : std::exp(sigma_ * least_); }

 private:
  bool linear_;
  float sigma_;
  float least_;  // quotient; of the Gaussian, its logarithm divided by sigma
};

// What is wrong with the attributes, or nothing.
inline std::string CheckMatrixNms(const MatrixNmsAttributes& attributes) {
  return CheckDecay("matrix_nms", attributes.sigma, attributes.max_output_size);
}

// At most 2^31 - 1 boxes. Memory grows with the boxes, not with their pairs.
void MatrixNmsCpu(const float* boxes, const float* scores, const int32_t* labels, int64_t num_boxes,
                  const MatrixNmsAttributes& attributes, int32_t* indices, float* decayed_scores,
                  int32_t* count, ParallelFor parallel_for);

// `workspace` is device memory of MatrixNmsCudaWorkspace bytes. The kernels run on `stream`,
// nothing waits for them. Returns null, or what CUDA says is wrong. The GPU's exp may differ from
// the CPU's in the last bit.
size_t MatrixNmsCudaWorkspace(int64_t num_boxes);
const char* MatrixNmsCuda(const float* boxes, const float* scores, const int32_t* labels,
                          int64_t num_boxes, const MatrixNmsAttributes& attributes, void* workspace,
                          int32_t* indices, float* decayed_scores, int32_t* count, void* stream);

}  // namespace kvision
