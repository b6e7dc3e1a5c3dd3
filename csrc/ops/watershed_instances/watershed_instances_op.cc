#include "common/op.h"
#include "ops/watershed_instances/watershed_instances.h"

namespace kvision {
namespace {

constexpr char kName[] = "watershed_instances";
constexpr char kPixels[] = "batch height width";
constexpr char kPixelsOrNone[] = "batch height|0 width|0";

// Those of one kind must be given where a graph knows them.
std::vector<int64_t> Numbers(const Attributes& attributes, const char* name) {
  return attributes.Has(name) ? attributes.Ints(name) : std::vector<int64_t>();
}

WatershedInstancesParameters Read(const Attributes& attributes, const Sizes& sizes) {
  return {sizes["batch"],
          sizes["height"],
          sizes["width"],
          attributes.Int("connectivity"),
          attributes.Int("fill_holes"),
          Numbers(attributes, "cut"),
          Numbers(attributes, "min_area"),
          Numbers(attributes, "grow")};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  const WatershedInstancesParameters parameters = Read(attributes, sizes);
  constexpr int64_t kLeast = std::numeric_limits<int32_t>::min();
  std::string wrong =
      CheckComponents(kName, parameters.connectivity, parameters.height, parameters.width);
  if (wrong.empty()) wrong = CheckWatershedNumbers("fill_holes", {parameters.fill_holes}, 0);
  if (wrong.empty()) wrong = CheckWatershedNumbers("cut", parameters.cut, kLeast);
  if (wrong.empty()) wrong = CheckWatershedNumbers("min_area", parameters.min_area, 0);
  if (wrong.empty()) wrong = CheckWatershedNumbers("grow", parameters.grow, 0);
  return wrong;
}

// The pixels of an optional input, or null.
template <typename T>
const T* PixelsOf(const Call& call, const char* name) {
  return call.Inputs(name)[0].NumElements() == 0 ? nullptr : call.In<T>(name);
}

Error Run(const Call& call) {
  if (call.HasNoOutput()) return {};
  const WatershedInstancesParameters parameters = Read(call.attributes, call.sizes);
  const int32_t* energy = call.In<int32_t>("energy");
  const int32_t* semantic = PixelsOf<int32_t>(call, "semantic");
  const bool* grow_within = PixelsOf<bool>(call, "grow_within");
  int32_t* instances = call.Out<int32_t>("instances");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(WatershedInstancesCudaWorkspace(parameters), [&](void* workspace) {
      return WatershedInstancesCuda(parameters, energy, semantic, grow_within, instances, workspace,
                                    call.device.stream);
    });
  }
#endif
  WatershedInstancesCpu(parameters, energy, semantic, grow_within, instances,
                        call.device.parallel_for);
  return {};
}

Op WatershedInstances() {
  Op op(kName, R"(Instances of an energy map, as deep watershed cuts them.

energy: (B, H, W).
semantic: (B, H, W), classes from 1, all else is background; or (B, 0, 0): all is of class 1.
grow_within: (B, H, W), where instances may grow to; or (B, 0, 0): anywhere.
cut, min_area, grow: (C,), of each class from 1 on.
fill_holes: holes of fewer pixels are filled.
connectivity: 4 for neighbours that share a side, 8 for those that share a corner too.
instances: (B, H, W), ids of each image from 1 in raster order of their first pixels, 0 for
  background.
)");
  op.inputs = {{"energy", "int32", kPixels},
               {"semantic", "int32", kPixelsOrNone},
               {"grow_within", "bool", kPixelsOrNone}};
  op.outputs = {{"instances", "int32", kPixels}};
  op.attributes = {{"cut", Kind::kInts, nullptr, "num_classes"},
                   {"min_area", Kind::kInts, nullptr, "num_classes"},
                   {"grow", Kind::kInts, nullptr, "num_classes"},
                   {"fill_holes", Kind::kInt, "64"},
                   {"connectivity", Kind::kInt, "8"}};
  op.check = &Check;
  op.run = &Run;
  return op;
}

const RegisteredOp watershed_instances(WatershedInstances());

}  // namespace
}  // namespace kvision
