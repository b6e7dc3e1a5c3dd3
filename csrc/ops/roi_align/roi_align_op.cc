#include <vector>

#include "common/op.h"
#include "ops/roi_align/roi_align.h"

namespace kvision {
namespace {

constexpr char kFeatures[] = "batch *height *width channels";
constexpr char kOutput[] = "batch num_boxes output_height output_width channels";

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  std::string wrong = CheckRoiAlign(sizes["num_levels"], attributes.Int("sampling_ratio"));
  if (wrong.empty()) {
    wrong = CheckRoiAlignOutputSize(SizeOr(attributes, sizes, "output_height", 1),
                                    SizeOr(attributes, sizes, "output_width", 1));
  }
  if (!wrong.empty() || !attributes.Has("spatial_scales")) return wrong;
  for (const double scale : attributes.Doubles("spatial_scales")) {
    if (wrong.empty()) wrong = CheckRoiAlignScale(scale);
  }
  return wrong;
}

// A map that is read going forward and written going back.
template <typename Data>
std::vector<RoiAlignLevel<Data>> Levels(const Call& call, Span<const Tensor> maps) {
  std::vector<RoiAlignLevel<Data>> levels;
  const std::vector<double>& scales = call.attributes.Doubles("spatial_scales");
  for (int64_t i = 0; i < maps.size; ++i) {
    levels.push_back(
        {static_cast<Data*>(maps[i].data), maps[i].shape[1], maps[i].shape[2], scales[i]});
  }
  return levels;
}

RoiAlignParameters Parameters(const Call& call) {
  const Sizes& sizes = call.sizes;
  return {sizes["batch"],
          sizes["num_boxes"],
          sizes["channels"],
          sizes["output_height"],
          sizes["output_width"],
          call.attributes.Int("sampling_ratio"),
          call.attributes.Bool("aligned")};
}

template <typename T>
Error Forward(const Call& call) {
  const auto levels = Levels<const T>(call, call.Inputs("features"));
  const Span<const RoiAlignLevel<const T>> all = {levels.data(),
                                                  static_cast<int64_t>(levels.size())};
  const auto* boxes = call.In<RoiAlignBox<T>>("boxes");
  const int32_t* box_levels = call.In<int32_t>("levels");
  T* output = call.Out<T>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return RoiAlignForwardCuda<T>(Parameters(call), all, boxes, box_levels, output,
                                    call.device.stream);
    });
  }
#endif
  RoiAlignForward<T>(Parameters(call), all, boxes, box_levels, output, call.device.parallel_for);
  return {};
}

template <typename T>
Error Backward(const Call& call) {
  const auto levels = Levels<T>(call, call.Outputs("feature_gradients"));
  const Span<const RoiAlignLevel<T>> all = {levels.data(), static_cast<int64_t>(levels.size())};
  const T* output_gradient = call.In<T>("output_gradient");
  const auto* boxes = call.In<RoiAlignBox<T>>("boxes");
  const int32_t* box_levels = call.In<int32_t>("levels");
  const RoiAlignParameters parameters = Parameters(call);
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(RoiAlignBackwardCudaWorkspace(parameters), [&](void* workspace) {
      return RoiAlignBackwardCuda<T>(parameters, output_gradient, boxes, box_levels, all, workspace,
                                     call.device.stream);
    });
  }
#endif
  RoiAlignBackward<T>(parameters, output_gradient, boxes, box_levels, all,
                      call.device.parallel_for);
  return {};
}

Error RunForward(const Call& call) {
  if (call.HasNoOutput()) return {};
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Forward<decltype(type)>(call); });
}

Error RunBackward(const Call& call) {
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Backward<decltype(type)>(call); });
}

Op RoiAlign() {
  Op op("roi_align",
        R"(Average of bilinear samples in the bins of each box, read from its own level.

features: maps (batch, height, width, channels), each of its own height and width.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2.
levels: (batch, num_boxes), the map that a box reads; zeros where there is none.
spatial_scales: cells of each map per unit of the boxes.
sampling_ratio: samples of a bin along each axis; 0 for as many as it has cells, rounded up.
aligned: whether boxes are shifted by half a cell.
output: (batch, num_boxes, output_height, output_width, channels).
)");
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"features", "T", kFeatures, "num_levels"},
               {"boxes", "box", "batch num_boxes 4"},
               {"levels", "int32", "batch num_boxes"}};
  op.outputs = {{"output", "T", kOutput}};
  op.attributes = {{"spatial_scales", Kind::kDoubles, nullptr, "num_levels"},
                   {"output_height", Kind::kInt},
                   {"output_width", Kind::kInt},
                   {"sampling_ratio", Kind::kInt, "0"},
                   {"aligned", Kind::kBool, "true"}};
  op.check = &Check;
  op.run = &RunForward;
  return op;
}

Op RoiAlignGradient() {
  Op op("roi_align_gradient", R"(Gradient of roi_align with respect to its features.

feature_shapes: of the features, one row each.
)");
  op.speaker = "roi_align";
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"output_gradient", "T", kOutput},
               {"boxes", "box", "batch num_boxes 4"},
               {"levels", "int32", "batch num_boxes"}};
  op.outputs = {{"feature_gradients", "T", kFeatures, "num_levels", "feature_shapes"}};
  op.attributes = {{"spatial_scales", Kind::kDoubles, nullptr, "num_levels"},
                   {"feature_shapes", Kind::kInts, nullptr, "num_levels 4"},
                   {"sampling_ratio", Kind::kInt, "0"},
                   {"aligned", Kind::kBool, "true"}};
  op.check = &Check;
  op.run = &RunBackward;
  return op;
}

const RegisteredOp roi_align(RoiAlign());
const RegisteredOp roi_align_gradient(RoiAlignGradient());

}  // namespace
}  // namespace kvision
