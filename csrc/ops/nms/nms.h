// Non-maximum suppression of one set of boxes. The rule and its edge cases: common/suppression.h.
//
//   boxes    (N, 4) float: x1, y1, x2, y2
//   scores   (N,) float
//   indices  (NmsOutputSize(N, max_output_size),) int32: boxes kept by descending score, then -1
//   count    () int32: how many are kept
#pragma once

#include <cstddef>
#include <cstdint>

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

void NmsCpu(const float* boxes, const float* scores, int64_t num_boxes,
            const NmsAttributes& attributes, int32_t* indices, int32_t* count);

// `workspace` is device memory of NmsCudaWorkspace bytes. The kernels run on `stream`, nothing
// waits for them. Returns null, or what CUDA says is wrong.
size_t NmsCudaWorkspace(int64_t num_boxes);
const char* NmsCuda(const float* boxes, const float* scores, int64_t num_boxes,
                    const NmsAttributes& attributes, void* workspace, int32_t* indices,
                    int32_t* count, void* stream);

}  // namespace kvision
