#include "common/op.h"
#include "ops/roi_pool/roi_pool.h"

namespace kvision {
namespace {

constexpr char kFeatures[] = "batch height width channels";
constexpr char kOutput[] = "batch num_boxes output_height output_width channels";

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  RoiPoolParameters parameters{};
  parameters.height = sizes["height"];
  parameters.width = sizes["width"];
  if (attributes.Has("feature_shape")) {
    parameters.height = attributes.Ints("feature_shape")[1];
    parameters.width = attributes.Ints("feature_shape")[2];
  }
  parameters.output_height = SizeOr(attributes, sizes, "output_height", 1);
  parameters.output_width = SizeOr(attributes, sizes, "output_width", 1);
  parameters.spatial_scale =
      attributes.Has("spatial_scale") ? attributes.Doubles("spatial_scale")[0] : 1.0;
  return CheckRoiPool(parameters);
}

RoiPoolParameters Parameters(const Call& call, const Tensor& features) {
  const Sizes& sizes = call.sizes;
  return {sizes["batch"],        sizes["num_boxes"],
          sizes["channels"],     features.shape[1],
          features.shape[2],     sizes["output_height"],
          sizes["output_width"], call.attributes.Doubles("spatial_scale")[0]};
}

template <typename T>
Error Forward(const Call& call) {
  const RoiPoolParameters parameters = Parameters(call, call.Inputs("features")[0]);
  const T* features = call.In<T>("features");
  const auto* boxes = call.In<RoiPoolBox<T>>("boxes");
  T* output = call.Out<T>("output");
  int32_t* argmax = call.Out<int32_t>("argmax");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return RoiPoolForwardCuda<T>(parameters, features, boxes, output, argmax, call.device.stream);
    });
  }
#endif
  RoiPoolForward<T>(parameters, features, boxes, output, argmax, call.device.parallel_for);
  return {};
}

template <typename T>
Error Backward(const Call& call) {
  const RoiPoolParameters parameters = Parameters(call, call.Outputs("feature_gradient")[0]);
  const T* output_gradient = call.In<T>("output_gradient");
  const int32_t* argmax = call.In<int32_t>("argmax");
  T* gradient = call.Out<T>("feature_gradient");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(RoiPoolBackwardCudaWorkspace(parameters), [&](void* workspace) {
      return RoiPoolBackwardCuda<T>(parameters, output_gradient, argmax,
                                    call.In<RoiPoolBox<T>>("boxes"), gradient, workspace,
                                    call.device.stream);
    });
  }
#endif
  RoiPoolBackward<T>(parameters, output_gradient, argmax, gradient, call.device.parallel_for);
  return {};
}

Error RunForward(const Call& call) {
  if (call.HasNoOutput()) return {};
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Forward<decltype(type)>(call); });
}

Error RunBackward(const Call& call) {
  if (call.HasNoOutput()) return {};
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Backward<decltype(type)>(call); });
}

Op RoiPool() {
  Op op("roi_pool", R"(Maximum of the features in the bins of each box.

features: (batch, height, width, channels), fewer than 2^31 cells a map.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2.
spatial_scale: cells of the map per unit of the boxes.
output: (batch, num_boxes, output_height, output_width, channels), 0 where a bin has no cells.
argmax: the cell y * width + x of each value, -1 where a bin has no cells.
)");
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"features", "T", kFeatures}, {"boxes", "box", "batch num_boxes 4"}};
  op.outputs = {{"output", "T", kOutput}, {"argmax", "int32", kOutput}};
  op.attributes = {{"spatial_scale", Kind::kDoubles},
                   {"output_height", Kind::kInt},
                   {"output_width", Kind::kInt}};
  op.check = &Check;
  op.run = &RunForward;
  return op;
}

Op RoiPoolGradient() {
  Op op("roi_pool_gradient", R"(Gradient of roi_pool with respect to its features.

boxes, spatial_scale: those that gave `argmax`.
feature_shape: of the features.
)");
  op.speaker = "roi_pool";
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"output_gradient", "T", kOutput},
               {"argmax", "int32", kOutput},
               {"boxes", "box", "batch num_boxes 4"}};
  op.outputs = {{"feature_gradient", "T", kFeatures, nullptr, "feature_shape"}};
  op.attributes = {{"spatial_scale", Kind::kDoubles}, {"feature_shape", Kind::kInts, nullptr, "4"}};
  op.check = &Check;
  op.run = &RunBackward;
  return op;
}

const RegisteredOp roi_pool(RoiPool());
const RegisteredOp roi_pool_gradient(RoiPoolGradient());

}  // namespace
}  // namespace kvision
