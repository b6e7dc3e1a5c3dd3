#include "common/op.h"
#include "ops/border_weight_map/border_weight_map.h"

namespace kvision {
namespace {

constexpr char kPixels[] = "batch height width";

BorderWeightMapParameters Read(const Attributes& attributes, const Sizes& sizes) {
  return {sizes["batch"],
          sizes["height"],
          sizes["width"],
          attributes.Float("background_weight"),
          attributes.Float("foreground_weight"),
          attributes.Float("border_weight"),
          attributes.Float("sigma")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  return CheckBorderWeightMap(Read(attributes, sizes));
}

Error Run(const Call& call) {
  if (call.HasNoOutput()) return {};
  const BorderWeightMapParameters parameters = Read(call.attributes, call.sizes);
  const int32_t* instances = call.In<int32_t>("instances");
  float* output = call.Out<float>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(BorderWeightMapCudaWorkspace(parameters), [&](void* workspace) {
      return BorderWeightMapCuda(parameters, instances, output, workspace, call.device.stream);
    });
  }
#endif
  BorderWeightMapCpu(parameters, instances, output, call.device.parallel_for);
  return {};
}

Op BorderWeightMap() {
  Op op("border_weight_map", R"(U-Net's weight of each pixel: more between cells that touch.

instances: (batch, height, width), ids of cells greater than 0, all else is background.
background_weight, foreground_weight: the first term.
border_weight, sigma: border_weight * exp(-(d1 + d2)^2 / (2 sigma^2)) is the second, with the
  distances to the borders of the two nearest cells; 0 with fewer than two cells.
output: (batch, height, width), the sum.
)");
  op.inputs = {{"instances", "int32", kPixels}};
  op.outputs = {{"output", "float32", kPixels}};
  op.attributes = {{"background_weight", Kind::kFloat, "1"},
                   {"foreground_weight", Kind::kFloat, "1"},
                   {"border_weight", Kind::kFloat, "10"},
                   {"sigma", Kind::kFloat, "5"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp border_weight_map(BorderWeightMap());

}  // namespace
}  // namespace kvision
