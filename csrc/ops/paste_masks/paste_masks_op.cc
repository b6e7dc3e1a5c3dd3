#include "common/op.h"
#include "ops/paste_masks/paste_masks.h"

namespace kvision {
namespace {

constexpr char kMasks[] = "batch num_boxes mask_height mask_width";
constexpr char kBoxes[] = "batch num_boxes 4";

PasteMasksParameters Read(const Attributes& attributes, const Sizes& sizes) {
  PasteMasksParameters parameters{};
  parameters.batch = sizes["batch"];
  parameters.num_boxes = sizes["num_boxes"];
  parameters.mask_height = sizes["mask_height"];
  parameters.mask_width = sizes["mask_width"];
  parameters.height = attributes.Int("height");
  parameters.width = attributes.Int("width");
  parameters.threshold = attributes.Float("threshold");
  parameters.rule =
      attributes.String("rule") == "torchvision" ? PasteRule::kTorchvision : PasteRule::kDetectron2;
  if (attributes.Has("num_runs")) parameters.num_runs = attributes.Int("num_runs");
  return parameters;
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  const std::string& rule = attributes.String("rule");
  if (rule != "detectron2" && rule != "torchvision") {
    return Complaint("paste_masks", "`rule` must be 'detectron2' or 'torchvision'. Received: '",
                     rule, "'.");
  }
  const PasteMasksParameters parameters = Read(attributes, sizes);
  if (attributes.Has("num_runs") && parameters.num_runs < 1) {
    return Complaint("paste_masks", "`num_runs` must be positive. Received: ", parameters.num_runs,
                     ".");
  }
  return CheckPasteMasks(parameters);
}

Error Run(const Call& call) {
  if (call.HasNoOutput()) return {};
  const PasteMasksParameters parameters = Read(call.attributes, call.sizes);
  const float* masks = call.In<float>("masks");
  const float* boxes = call.In<float>("boxes");
  int32_t* label_map = call.Out<int32_t>("label_map");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(PasteMasksCudaWorkspace(parameters), [&](void* workspace) {
      return PasteMasksCuda(parameters, masks, boxes, label_map, workspace, call.device.stream);
    });
  }
#endif
  PasteMasksCpu(parameters, masks, boxes, label_map, call.device.parallel_for);
  return {};
}

Error RunToRuns(const Call& call) {
  if (call.HasNoOutput()) return {};
  const PasteMasksParameters parameters = Read(call.attributes, call.sizes);
  const float* masks = call.In<float>("masks");
  const float* boxes = call.In<float>("boxes");
  int32_t* runs = call.Out<int32_t>("runs");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(PasteMasksCudaWorkspace(parameters), [&](void* workspace) {
      return PasteMaskRunsCuda(parameters, masks, boxes, runs, workspace, call.device.stream);
    });
  }
#endif
  PasteMaskRunsCpu(parameters, masks, boxes, runs, call.device.parallel_for);
  return {};
}

Op PasteMasks() {
  Op op("paste_masks", R"(Pastes the masks of boxes into a label map.

masks: (batch, num_boxes, mask_height, mask_width), each stretched to its box.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2 in pixels.
height, width: of the images.
threshold: a pixel is of an instance where its mask, interpolated, is at least that.
rule: "detectron2", cells are equal parts of the box; or "torchvision", with a border of zeros, and
  corners truncated to integers.
label_map: (batch, height, width), r + 1 for the first row r whose instance the pixel is of, or 0.
)");
  op.inputs = {{"masks", "float32", kMasks}, {"boxes", "float32", kBoxes}};
  op.outputs = {{"label_map", "int32", "batch height width"}};
  op.attributes = {{"height", Kind::kInt},
                   {"width", Kind::kInt},
                   {"threshold", Kind::kFloat, "0.5"},
                   {"rule", Kind::kString, "detectron2"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

Op PasteMaskRuns() {
  Op op("paste_mask_runs", R"(Pastes the masks of boxes into images, as run lengths.

masks, boxes, height, width, threshold, rule: as of paste_masks.
num_runs: capacity of a row of run lengths.
runs: (batch, num_boxes, num_runs), of zeros and of ones in turn, column after column, and zeros
  behind them; -1 throughout where a mask takes more than num_runs of them.
)");
  op.speaker = "paste_masks";
  op.inputs = {{"masks", "float32", kMasks}, {"boxes", "float32", kBoxes}};
  op.outputs = {{"runs", "int32", "batch num_boxes num_runs"}};
  op.attributes = {{"height", Kind::kInt},
                   {"width", Kind::kInt},
                   {"num_runs", Kind::kInt},
                   {"threshold", Kind::kFloat, "0.5"},
                   {"rule", Kind::kString, "detectron2"}};
  op.check = &Check;
  op.run = &RunToRuns;
  return op;
}

const RegisteredOp paste_masks(PasteMasks());
const RegisteredOp paste_mask_runs(PasteMaskRuns());

}  // namespace
}  // namespace kvision
