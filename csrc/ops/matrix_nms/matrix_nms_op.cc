#include "common/op.h"
#include "ops/matrix_nms/matrix_nms.h"

namespace kvision {
namespace {

// The name of the method has been checked.
MatrixNmsAttributes Read(const Attributes& attributes) {
  MatrixNmsAttributes read{DecayMethod::kLinear, attributes.Float("sigma"),
                           attributes.Float("score_threshold"), attributes.Int("max_output_size")};
  ParseDecayMethod("matrix_nms", attributes.String("method"), &read.method);
  return read;
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  DecayMethod method;
  std::string wrong = CheckNumBoxes("matrix_nms", sizes["num_boxes"]);
  if (wrong.empty()) wrong = ParseDecayMethod("matrix_nms", attributes.String("method"), &method);
  return wrong.empty() ? CheckMatrixNms(Read(attributes)) : wrong;
}

Error Run(const Call& call) {
  const MatrixNmsAttributes attributes = Read(call.attributes);
  const int64_t num_boxes = call.sizes["num_boxes"];
  const float* boxes = call.In<float>("boxes");
  const float* scores = call.In<float>("scores");
  const int32_t* labels = call.In<int32_t>("labels");
  int32_t* indices = call.Out<int32_t>("indices");
  float* decayed_scores = call.Out<float>("decayed_scores");
  int32_t* count = call.Out<int32_t>("count");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(MatrixNmsCudaWorkspace(num_boxes), [&](void* workspace) {
      return MatrixNmsCuda(boxes, scores, labels, num_boxes, attributes, workspace, indices,
                           decayed_scores, count, call.device.stream);
    });
  }
#endif
  MatrixNmsCpu(boxes, scores, labels, num_boxes, attributes, indices, decayed_scores, count,
               call.device.parallel_for);
  return {};
}

Op MatrixNms() {
  Op op("matrix_nms", R"(Matrix non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
labels: (N,). Boxes of different labels do not see each other.
method: "linear" or "gaussian": f(x) = 1 - x or exp(-sigma x^2) in the decay min f(IoU) / f(c).
sigma: of the Gaussian, positive.
score_threshold: decayed scores must be greater; -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes by descending decayed score, padded with -1.
decayed_scores: their decayed scores, padded with 0.
count: how many there are.
)");
  op.inputs = {{"boxes", "float32", "num_boxes 4"},
               {"scores", "float32", "num_boxes"},
               {"labels", "int32", "num_boxes"}};
  op.outputs = {{"indices", "int32", "max_output_size|num_boxes"},
                {"decayed_scores", "float32", "max_output_size|num_boxes"},
                {"count", "int32", ""}};
  op.attributes = {{"method", Kind::kString, "gaussian"},
                   {"sigma", Kind::kFloat, "2.0"},
                   {"score_threshold", Kind::kFloat, "0.0"},
                   {"max_output_size", Kind::kInt, "-1"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp matrix_nms(MatrixNms());

}  // namespace
}  // namespace kvision
