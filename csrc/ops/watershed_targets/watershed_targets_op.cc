#include <vector>

#include "common/op.h"
#include "ops/watershed_targets/watershed_targets.h"

namespace kvision {
namespace {

constexpr char kPixels[] = "batch height width";

WatershedTargetsParameters Read(const Attributes& attributes, const Sizes& sizes) {
  return {sizes["batch"], sizes["height"], sizes["width"],
          attributes.Bool("image_border_is_outside")};
}

Error Run(const Call& call, const WatershedTargetsParameters& parameters,
          const WatershedTargets& targets) {
  const int32_t* instances = call.In<int32_t>("instances");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    const int64_t bytes = WatershedTargetsCudaWorkspace(parameters, targets.distance_alone());
    return call.OnCuda(bytes, [&](void* workspace) {
      return WatershedTargetsCuda(parameters, instances, targets, workspace, call.device.stream);
    });
  }
#endif
  WatershedTargetsCpu(parameters, instances, targets, call.device.parallel_for);
  return {};
}

// distance_transform ----------------------------------------------------------------------------

std::string CheckDistance(const Attributes&, const Sizes& sizes) {
  return CheckImageSize("distance_transform", sizes["height"], sizes["width"]);
}

Error RunDistance(const Call& call) {
  if (call.HasNoOutput()) return {};
  return Run(call, Read(call.attributes, call.sizes), {call.Out<float>("distance")});
}

Op DistanceTransform() {
  Op op("distance_transform", R"(The distance of each pixel to the nearest one outside its instance.

instances: (batch, height, width), ids of instances greater than 0, all else is background.
image_border_is_outside: whether what lies beyond the image is outside; it is for an instance that
  fills the image.
distance: (batch, height, width), Euclidean, between pixel centres; 0 on the background.
)");
  op.inputs = {{"instances", "int32", kPixels}};
  op.outputs = {{"distance", "float32", kPixels}};
  op.attributes = {{"image_border_is_outside", Kind::kBool, "false"}};
  op.check = &CheckDistance;
  op.run = &RunDistance;
  return op;
}

// watershed_targets -----------------------------------------------------------------------------

std::vector<float> LevelEdges(const Attributes& attributes) {
  const std::vector<double>& edges = attributes.Doubles("level_edges");
  return {edges.begin(), edges.end()};
}

Span<const float> View(const std::vector<float>& edges) {
  return {edges.data(), static_cast<int64_t>(edges.size())};
}

std::string CheckTargets(const Attributes& attributes, const Sizes& sizes) {
  std::string wrong = CheckImageSize("watershed_targets", sizes["height"], sizes["width"]);
  if (wrong.empty()) wrong = CheckMinArea(attributes.Int("min_area"));
  if (wrong.empty() && attributes.Has("level_edges")) {
    wrong = CheckLevelEdges(View(LevelEdges(attributes)));
  }
  return wrong;
}

Error RunTargets(const Call& call) {
  if (call.HasNoOutput()) return {};
  const std::vector<float> edges = LevelEdges(call.attributes);
  WatershedTargetsParameters parameters = Read(call.attributes, call.sizes);
  parameters.min_area = call.attributes.Int("min_area");
  parameters.level_edges = View(edges);
  return Run(call, parameters,
             {call.Out<float>("distance"), call.Out<float>("direction"), call.Out<int32_t>("level"),
              call.Out<float>("weight")});
}

Op WatershedTargets() {
  Op op("watershed_targets", R"(What a deep watershed network is taught, from instances.

instances: (batch, height, width), ids of instances greater than 0, all else is background.
level_edges: (num_levels,), each greater than the one before; the last level is open.
image_border_is_outside: whether what lies beyond the image is outside; it is for an instance that
  fills the image.
min_area: instances of fewer pixels have targets of 0, as the background has.
distance: (batch, height, width), Euclidean, to the nearest pixel outside the instance.
direction: (batch, height, width, 2), unit vectors x, y along which the distance grows, or (0, 0).
level: (batch, height, width), which of level_edges is the last, from the second on, that is less
  than the distance, or 0.
weight: (batch, height, width), 200 / sqrt(pixels of the instance).
)");
  op.inputs = {{"instances", "int32", kPixels}};
  op.outputs = {{"distance", "float32", kPixels},
                {"direction", "float32", "batch height width 2"},
                {"level", "int32", kPixels},
                {"weight", "float32", kPixels}};
  op.attributes = {{"level_edges", Kind::kDoubles, nullptr, "num_levels"},
                   {"image_border_is_outside", Kind::kBool, "false"},
                   {"min_area", Kind::kInt, "0"}};
  op.check = &CheckTargets;
  op.run = &RunTargets;
  return op;
}

const RegisteredOp distance_transform(DistanceTransform());
const RegisteredOp watershed_targets(WatershedTargets());

}  // namespace
}  // namespace kvision
