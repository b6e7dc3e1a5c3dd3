#include "common/op.h"
#include "ops/connected_components/connected_components.h"

namespace kvision {
namespace {

constexpr char kPixels[] = "batch height width";

ConnectedComponentsParameters Read(const Attributes& attributes, const Sizes& sizes) {
  return {sizes["batch"], sizes["height"], sizes["width"], attributes.Int("connectivity")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  return CheckConnectedComponents(Read(attributes, sizes));
}

Error Run(const Call& call) {
  if (call.HasNoOutput()) return {};
  const ConnectedComponentsParameters parameters = Read(call.attributes, call.sizes);
  const bool* mask = call.In<bool>("mask");
  int32_t* labels = call.Out<int32_t>("labels");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(ConnectedComponentsCudaWorkspace(parameters), [&](void* workspace) {
      return ConnectedComponentsCuda(parameters, mask, labels, workspace, call.device.stream);
    });
  }
#endif
  ConnectedComponentsCpu(parameters, mask, labels, call.device.parallel_for);
  return {};
}

Op ConnectedComponents() {
  Op op("connected_components", R"(The connected components of masks.

mask: (batch, height, width).
connectivity: 4 for neighbours that share a side, 8 for those that share a corner too.
labels: (batch, height, width), the components of each image numbered from 1 in raster order of
  their first pixels; 0 where the mask is not set.
)");
  op.inputs = {{"mask", "bool", kPixels}};
  op.outputs = {{"labels", "int32", kPixels}};
  op.attributes = {{"connectivity", Kind::kInt, "8"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp connected_components(ConnectedComponents());

}  // namespace
}  // namespace kvision
