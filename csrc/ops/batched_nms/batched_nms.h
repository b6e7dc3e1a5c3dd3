// Non-maximum suppression within every image and class, merged into each image's best detections.
// The rule and its edge cases: common/suppression.h.
//
//   boxes           (B, N, Q, 4) float: x1, y1, x2, y2; Q = C, or 1 where classes share boxes
//   scores          (B, N, C) float
//   indices         (B, K) int32: boxes of the detections, then -1; K = max_output_size
//   labels          (B, K) int32: classes of the detections, then -1
//   num_detections  (B,) int32
//
// Detections descend by score; equal scores ascend by box index, then by class.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/parallel.h"

namespace kvision {

struct BatchedNmsShape {
  int64_t batch, num_boxes, num_classes;
  bool shared_boxes;  // Q = 1
};

struct BatchedNmsAttributes {
  float iou_threshold;
  float score_threshold;
  int64_t max_output_size;            // at least 1
  int64_t max_output_size_per_class;  // at least 1
};

void BatchedNmsCpu(const float* boxes, const float* scores, const BatchedNmsShape& shape,
                   const BatchedNmsAttributes& attributes, int32_t* indices, int32_t* labels,
                   int32_t* num_detections, ParallelFor parallel_for);

// `workspace` is device memory of BatchedNmsCudaWorkspace bytes. The kernels run on `stream`,
// nothing waits for them. Returns null, or what CUDA says is wrong.
size_t BatchedNmsCudaWorkspace(const BatchedNmsShape& shape);
const char* BatchedNmsCuda(const float* boxes, const float* scores, const BatchedNmsShape& shape,
                           const BatchedNmsAttributes& attributes, void* workspace,
                           int32_t* indices, int32_t* labels, int32_t* num_detections,
                           void* stream);

}  // namespace kvision
