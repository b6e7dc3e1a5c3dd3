#include "common/op.h"
#include "ops/nms/nms.h"

namespace kvision {
namespace {

NmsAttributes Read(const Attributes& attributes) {
  return {attributes.Float("iou_threshold"), attributes.Float("score_threshold"),
          attributes.Int("max_output_size")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  if (sizes["num_boxes"] > INT32_MAX) {
    return Complaint("nms", "at most 2^31 - 1 boxes. Received: ", sizes["num_boxes"], ".");
  }
  return CheckNms(Read(attributes));
}

Error Run(const Call& call) {
  const NmsAttributes attributes = Read(call.attributes);
  const int64_t num_boxes = call.sizes["num_boxes"];
  const float* boxes = call.In<float>("boxes");
  const float* scores = call.In<float>("scores");
  int32_t* indices = call.Out<int32_t>("indices");
  int32_t* count = call.Out<int32_t>("count");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(NmsCudaWorkspace(num_boxes), [&](void* workspace) {
      return NmsCuda(boxes, scores, num_boxes, attributes, workspace, indices, count,
                     call.device.stream);
    });
  }
#endif
  NmsCpu(boxes, scores, num_boxes, attributes, indices, count);
  return {};
}

Op Nms() {
  Op op("nms", R"(Greedy non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
  double down.
score_threshold: -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes kept by descending score, padded with -1.
count: how many are kept.
)");
  op.inputs = {{"boxes", "float32", "num_boxes 4"}, {"scores", "float32", "num_boxes"}};
  op.outputs = {{"indices", "int32", "max_output_size|num_boxes"}, {"count", "int32", ""}};
  op.attributes = {{"iou_threshold", Kind::kFloat},
                   {"score_threshold", Kind::kFloat, "-inf"},
                   {"max_output_size", Kind::kInt, "-1"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp nms(Nms());

}  // namespace
}  // namespace kvision
