#include "common/op.h"
#include "ops/batched_nms/batched_nms.h"

namespace kvision {
namespace {

BatchedNmsAttributes Read(const Attributes& attributes) {
  return {attributes.Float("iou_threshold"), attributes.Float("score_threshold"),
          attributes.Int("max_output_size"), attributes.Int("max_output_size_per_class")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  const int64_t num_boxes = sizes["num_boxes"], num_classes = sizes["num_classes"];
  if (num_boxes > 0 && num_classes > INT32_MAX / num_boxes) {
    return Complaint("batched_nms", "at most 2^31 - 1 boxes times classes. Received: ", num_boxes,
                     " times ", num_classes, ".");
  }
  return CheckBatchedNms(Read(attributes));
}

Error Run(const Call& call) {
  const BatchedNmsAttributes attributes = Read(call.attributes);
  const Sizes& sizes = call.sizes;
  const BatchedNmsShape shape{sizes["batch"], sizes["num_boxes"], sizes["num_classes"],
                              call.Inputs("boxes")[0].shape[2] == 1};
  if (shape.batch == 0) return {};
  const float* boxes = call.In<float>("boxes");
  const float* scores = call.In<float>("scores");
  int32_t* indices = call.Out<int32_t>("indices");
  int32_t* labels = call.Out<int32_t>("labels");
  int32_t* num_detections = call.Out<int32_t>("num_detections");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(BatchedNmsCudaWorkspace(shape), [&](void* workspace) {
      return BatchedNmsCuda(boxes, scores, shape, attributes, workspace, indices, labels,
                            num_detections, call.device.stream);
    });
  }
#endif
  BatchedNmsCpu(boxes, scores, shape, attributes, indices, labels, num_detections,
                call.device.parallel_for);
  return {};
}

Op BatchedNms() {
  Op op(
      "batched_nms",
      R"(Greedy non-maximum suppression within every image and class, merged into each image's best.

Detections descend by score; equal scores ascend by box index, then by class.

boxes: (B, N, C, 4), or (B, N, 1, 4) where classes share boxes; x1 y1 x2 y2.
scores: (B, N, C). Only scores greater than `score_threshold` are candidates; NaN and -inf never
  are.
iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
  double down.
score_threshold: -inf for none.
max_output_size: K, detections an image.
max_output_size_per_class: detections of each class of an image at most.
indices: (B, K), the box of each detection, padded with -1.
labels: (B, K), the class of each detection, padded with -1.
num_detections: (B,).
)");
  op.inputs = {{"boxes", "float32", "batch num_boxes num_classes|1 4"},
               {"scores", "float32", "batch num_boxes num_classes"}};
  op.outputs = {{"indices", "int32", "batch max_output_size"},
                {"labels", "int32", "batch max_output_size"},
                {"num_detections", "int32", "batch"}};
  op.attributes = {{"iou_threshold", Kind::kFloat},
                   {"score_threshold", Kind::kFloat, "-inf"},
                   {"max_output_size", Kind::kInt, "100"},
                   {"max_output_size_per_class", Kind::kInt, "100"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp batched_nms(BatchedNms());

}  // namespace
}  // namespace kvision
