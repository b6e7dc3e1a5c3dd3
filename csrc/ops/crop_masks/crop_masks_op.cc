#include "common/op.h"
#include "ops/crop_masks/crop_masks.h"

namespace kvision {
namespace {

constexpr char kBoxes[] = "batch num_boxes 4";
constexpr char kRows[] = "batch num_boxes";
constexpr char kOutput[] = "batch num_boxes output_height output_width";

CropMasksParameters Read(const Attributes& attributes, const Sizes& sizes) {
  CropMasksParameters parameters{};
  parameters.batch = sizes["batch"];
  parameters.num_boxes = sizes["num_boxes"];
  parameters.height = SizeOr(attributes, sizes, "height", 0);
  parameters.width = SizeOr(attributes, sizes, "width", 0);
  parameters.output_height = attributes.Int("output_height");
  parameters.output_width = attributes.Int("output_width");
  parameters.num_instances = sizes["num_instances"];
  parameters.num_runs = sizes["num_runs"];
  return parameters;
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  return CheckCropMasks(Read(attributes, sizes));
}

std::string CheckRuns(const Attributes& attributes, const Sizes& sizes) {
  const CropMasksParameters parameters = Read(attributes, sizes);
  if (parameters.height < 1 || parameters.width < 1) {
    return Complaint("crop_masks",
                     "`height` and `width` must be positive. Received: ", parameters.height,
                     " and ", parameters.width, ".");
  }
  return CheckCropMasks(parameters);
}

Error Run(const Call& call) {
  if (call.HasNoOutput()) return {};
  const CropMasksParameters parameters = Read(call.attributes, call.sizes);
  const int32_t* label_map = call.In<int32_t>("label_map");
  const float* boxes = call.In<float>("boxes");
  const int32_t* rows = call.In<int32_t>("rows");
  float* output = call.Out<float>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return CropMasksCuda(parameters, label_map, boxes, rows, output, call.device.stream);
    });
  }
#endif
  CropMasksCpu(parameters, label_map, boxes, rows, output, call.device.parallel_for);
  return {};
}

Error RunOnRuns(const Call& call) {
  if (call.HasNoOutput()) return {};
  const CropMasksParameters parameters = Read(call.attributes, call.sizes);
  const int32_t* runs = call.In<int32_t>("runs");
  const float* boxes = call.In<float>("boxes");
  const int32_t* rows = call.In<int32_t>("rows");
  float* output = call.Out<float>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(CropMaskRunsCudaWorkspace(parameters), [&](void* workspace) {
      return CropMaskRunsCuda(parameters, runs, boxes, rows, output, workspace, call.device.stream);
    });
  }
#endif
  CropMaskRunsCpu(parameters, runs, boxes, rows, output, call.device.parallel_for);
  return {};
}

Op CropMasks() {
  Op op("crop_masks", R"(Crops the mask of an instance, in a label map, to each box.

label_map: (batch, height, width), r + 1 where a pixel is of the instance of row r; fewer than 2^31
  pixels.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2 in pixels.
rows: (batch, num_boxes), the instance whose mask a box gets; none below 0.
output: (batch, num_boxes, output_height, output_width), RoIAlign of the mask, not aligned, with the
  adaptive grid.
)");
  op.inputs = {{"label_map", "int32", "batch height width"},
               {"boxes", "float32", kBoxes},
               {"rows", "int32", kRows}};
  op.outputs = {{"output", "float32", kOutput}};
  op.attributes = {{"output_height", Kind::kInt}, {"output_width", Kind::kInt}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

Op CropMaskRuns() {
  Op op("crop_mask_runs", R"(Crops the mask of an instance, given by run lengths, to each box.

runs: (batch, num_instances, num_runs), of zeros and of ones in turn, column after column; zeros at
  the end are padding.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2 in pixels.
rows: (batch, num_boxes), the instance whose mask a box gets; none where there is no such row.
height, width: of the image.
output: (batch, num_boxes, output_height, output_width), RoIAlign of the mask, not aligned, with the
  adaptive grid.
)");
  op.speaker = "crop_masks";
  op.inputs = {{"runs", "int32", "batch num_instances num_runs"},
               {"boxes", "float32", kBoxes},
               {"rows", "int32", kRows}};
  op.outputs = {{"output", "float32", kOutput}};
  op.attributes = {{"height", Kind::kInt},
                   {"width", Kind::kInt},
                   {"output_height", Kind::kInt},
                   {"output_width", Kind::kInt}};
  op.check = &CheckRuns;
  op.run = &RunOnRuns;
  return op;
}

const RegisteredOp crop_masks(CropMasks());
const RegisteredOp crop_mask_runs(CropMaskRuns());

}  // namespace
}  // namespace kvision
