#include "common/op.h"
#include "ops/soft_nms/soft_nms.h"

namespace kvision {
namespace {

// The name of the method has been checked.
SoftNmsAttributes Read(const Attributes& attributes) {
  SoftNmsAttributes read{DecayMethod::kLinear, attributes.Float("sigma"),
                         attributes.Float("iou_threshold"), attributes.Float("score_threshold"),
                         attributes.Int("max_output_size")};
  ParseDecayMethod("soft_nms", attributes.String("method"), &read.method);
  return read;
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  DecayMethod method;
  std::string wrong = CheckNumBoxes("soft_nms", sizes["num_boxes"]);
  if (wrong.empty()) wrong = ParseDecayMethod("soft_nms", attributes.String("method"), &method);
  return wrong.empty() ? CheckSoftNms(Read(attributes)) : wrong;
}

Error Run(const Call& call) {
  const SoftNmsAttributes attributes = Read(call.attributes);
  const int64_t num_boxes = call.sizes["num_boxes"];
  const float* boxes = call.In<float>("boxes");
  const float* scores = call.In<float>("scores");
  const int32_t* labels = call.In<int32_t>("labels");
  int32_t* indices = call.Out<int32_t>("indices");
  float* decayed_scores = call.Out<float>("decayed_scores");
  int32_t* count = call.Out<int32_t>("count");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(SoftNmsCudaWorkspace(num_boxes), [&](void* workspace) {
      return SoftNmsCuda(boxes, scores, labels, num_boxes, attributes, workspace, indices,
                         decayed_scores, count, call.device.stream);
    });
  }
#endif
  SoftNmsCpu(boxes, scores, labels, num_boxes, attributes, indices, decayed_scores, count);
  return {};
}

Op SoftNms() {
  Op op("soft_nms", R"(Soft non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
labels: (N,). Boxes of different labels do not see each other.
method: "linear": scores are multiplied by 1 - IoU above `iou_threshold`. "gaussian": by
  exp(-IoU^2 / sigma).
sigma: of the Gaussian, positive.
iou_threshold: of the linear method. Compared with float IoUs as the float it is.
score_threshold: -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes by order of selection, padded with -1.
decayed_scores: their scores when they were selected, padded with 0.
count: how many are selected.
)");
  op.inputs = {{"boxes", "float32", "num_boxes 4"},
               {"scores", "float32", "num_boxes"},
               {"labels", "int32", "num_boxes"}};
  op.outputs = {{"indices", "int32", "max_output_size|num_boxes"},
                {"decayed_scores", "float32", "max_output_size|num_boxes"},
                {"count", "int32", ""}};
  op.attributes = {{"method", Kind::kString, "gaussian"},
                   {"sigma", Kind::kFloat, "0.5"},
                   {"iou_threshold", Kind::kFloat, "0.3"},
                   {"score_threshold", Kind::kFloat, "0.001"},
                   {"max_output_size", Kind::kInt, "-1"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp soft_nms(SoftNms());

}  // namespace
}  // namespace kvision
