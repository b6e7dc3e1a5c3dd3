// Non-maximum suppression within every image and class, merged into each image's best detections.
// The rule and its edge cases: common/suppression.h.
//
//   boxes           (batch, num_boxes, num_classes or 1, 4) float: x1, y1, x2, y2; 1 where classes
//                   share boxes
//   scores          (batch, num_boxes, num_classes) float
//   indices         (batch, size) int32: boxes of the detections, then -1
//   labels          (batch, size) int32: classes of the detections, then -1
//   num_detections  (batch,) int32
//
// size is max_output_size.
//
// Detections descend by score; equal scores ascend by box index, then by class.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

struct BatchedNmsShape {
  int64_t batch, num_boxes, num_classes;
  bool shared_boxes;
};

struct BatchedNmsAttributes {
  float iou_threshold;
  float score_threshold;
  int64_t max_output_size;            // at least 1
  int64_t max_output_size_per_class;  // at least 1
};

// What is wrong with the attributes, or nothing.
inline std::string CheckBatchedNms(const BatchedNmsAttributes& attributes) {
  const float threshold = attributes.iou_threshold;
  if (!(threshold >= 0.0f && threshold <= 1.0f)) {
    return Complaint("batched_nms", "`iou_threshold` must be in [0, 1]. Received: ", threshold,
                     ".");
  }
  if (attributes.max_output_size < 1 || attributes.max_output_size > INT32_MAX ||
      attributes.max_output_size_per_class < 1) {
    return Complaint("batched_nms",
                     "`max_output_size` and `max_output_size_per_class` must be positive, the "
                     "first below 2^31. Received: ",
                     attributes.max_output_size, " and ", attributes.max_output_size_per_class,
                     ".");
  }
  return {};
}

// num_boxes * num_classes is at most 2^31 - 1.
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
