#include "common/op.h"
#include "ops/match_boxes/match_boxes.h"

namespace kvision {
namespace {

MatchBoxesAttributes Read(const Attributes& attributes) {
  return {attributes.Float("positive_threshold"), attributes.Float("negative_threshold"),
          attributes.Float("crowd_overlap"), attributes.Bool("allow_low_quality")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  if (sizes["num_boxes"] > INT32_MAX) {
    return Complaint("match_boxes", "at most 2^31 - 1 boxes. Received: ", sizes["num_boxes"], ".");
  }
  return CheckMatchBoxes(Read(attributes));
}

Error Run(const Call& call) {
  const MatchBoxesAttributes attributes = Read(call.attributes);
  const Sizes& sizes = call.sizes;
  const MatchBoxesShape shape{sizes["batch"], sizes["num_candidates"], sizes["num_boxes"],
                              call.Inputs("candidates")[0].shape[0] != sizes["batch"]};
  const float* boxes = call.In<float>("boxes");
  const bool* valid = call.In<bool>("valid");
  const bool* crowd = call.In<bool>("crowd");
  const float* candidates = call.In<float>("candidates");
  int32_t* matches = call.Out<int32_t>("matches");
  int32_t* status = call.Out<int32_t>("status");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(MatchBoxesCudaWorkspace(shape), [&](void* workspace) {
      return MatchBoxesCuda(boxes, valid, crowd, candidates, shape, attributes, workspace, matches,
                            status, call.device.stream);
    });
  }
#endif
  MatchBoxesCpu(boxes, valid, crowd, candidates, shape, attributes, matches, status,
                call.device.parallel_for);
  return {};
}

Op MatchBoxes() {
  Op op(
      "match_boxes",
      R"(Which box of the ground truth each candidate stands for, by IoU, without a matrix of IoUs.

boxes: (B, M, 4), x1 y1 x2 y2.
valid: (B, M). False marks padding.
crowd: (B, M). Negative candidates that lie in such a box are ignored.
candidates: (B, N, 4), or (1, N, 4) where images share them.
matches: (B, N), the valid box of the greatest IoU.
status: (B, N), 1 for positive, 0 for negative, -1 for ignored.
)");
  op.inputs = {{"boxes", "float32", "batch num_boxes 4"},
               {"valid", "bool", "batch num_boxes"},
               {"crowd", "bool", "batch num_boxes"},
               {"candidates", "float32", "batch|1 num_candidates 4"}};
  op.outputs = {{"matches", "int32", "batch num_candidates"},
                {"status", "int32", "batch num_candidates"}};
  op.attributes = {{"positive_threshold", Kind::kFloat},
                   {"negative_threshold", Kind::kFloat},
                   {"allow_low_quality", Kind::kBool, "false"},
                   {"crowd_overlap", Kind::kFloat, "0.7"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp match_boxes(MatchBoxes());

}  // namespace
}  // namespace kvision
