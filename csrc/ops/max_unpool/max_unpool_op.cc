#include "common/op.h"
#include "ops/max_unpool/max_unpool.h"

namespace kvision {
namespace {

constexpr char kMap[] = "batch height width channels";
constexpr char kPooled[] = "batch output_height output_width channels";

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  MaxUnpoolParameters parameters{};
  parameters.height = sizes["height"];
  parameters.width = sizes["width"];
  if (attributes.Has("output_shape")) {
    parameters.height = attributes.Ints("output_shape")[1];
    parameters.width = attributes.Ints("output_shape")[2];
  }
  return CheckMaxUnpool(parameters);
}

MaxUnpoolParameters Parameters(const Call& call, const Tensor& map) {
  const Sizes& sizes = call.sizes;
  return {sizes["batch"], sizes["channels"],      map.shape[1],
          map.shape[2],   sizes["output_height"], sizes["output_width"]};
}

Error OffTheMap(const Call& call, const MaxUnpoolParameters& parameters, int64_t index) {
  if (index < 0) return {};
  return {Complaint("max_unpool", "`argmax` must be a cell y * width + x of a map of ",
                    parameters.height, " by ", parameters.width,
                    ". Received: ", call.In<int32_t>("argmax")[index], ".")};
}

template <typename T>
Error Forward(const Call& call) {
  const MaxUnpoolParameters parameters = Parameters(call, call.Outputs("output")[0]);
  const T* x = call.In<T>("x");
  const int32_t* argmax = call.In<int32_t>("argmax");
  T* output = call.Out<T>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(MaxUnpoolCudaWorkspace(parameters), [&](void* workspace) {
      return MaxUnpoolCuda<T>(parameters, x, argmax, output, workspace, call.device.stream);
    });
  }
#endif
  return OffTheMap(call, parameters,
                   MaxUnpool<T>(parameters, x, argmax, output, call.device.parallel_for));
}

template <typename T>
Error Backward(const Call& call) {
  const MaxUnpoolParameters parameters = Parameters(call, call.Inputs("output_gradient")[0]);
  const T* output_gradient = call.In<T>("output_gradient");
  const int32_t* argmax = call.In<int32_t>("argmax");
  T* gradient = call.Out<T>("x_gradient");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return MaxUnpoolGradientCuda<T>(parameters, output_gradient, argmax, gradient,
                                      call.device.stream);
    });
  }
#endif
  return OffTheMap(call, parameters,
                   MaxUnpoolGradient<T>(parameters, output_gradient, argmax, gradient,
                                        call.device.parallel_for));
}

Error RunForward(const Call& call) {
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Forward<decltype(type)>(call); });
}

Error RunBackward(const Call& call) {
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Backward<decltype(type)>(call); });
}

Op UnpoolOp() {
  Op op("max_unpool", R"(Each value at the cell that it was the maximum of, zeros elsewhere.

x: (batch, output_height, output_width, channels).
argmax: of the shape of x, the cell y * width + x of each value, as max_pool_with_argmax tells it.
output_shape: (batch, height, width, channels), fewer than 2^31 cells a map.
output: values that fall on one cell are summed.
)");
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"x", "T", kPooled}, {"argmax", "int32", kPooled}};
  op.outputs = {{"output", "T", kMap, nullptr, "output_shape"}};
  op.attributes = {{"output_shape", Kind::kInts, nullptr, "4"}};
  op.check = &Check;
  op.run = &RunForward;
  return op;
}

Op UnpoolGradientOp() {
  Op op("max_unpool_gradient", R"(Gradient of max_unpool: the value of a map at each argmax.

output_gradient: (batch, height, width, channels).
argmax: (batch, output_height, output_width, channels), cells y * width + x of the map.
)");
  op.speaker = "max_unpool";
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"output_gradient", "T", kMap}, {"argmax", "int32", kPooled}};
  op.outputs = {{"x_gradient", "T", kPooled}};
  op.check = &Check;
  op.run = &RunBackward;
  return op;
}

const RegisteredOp max_unpool(UnpoolOp());
const RegisteredOp max_unpool_gradient(UnpoolGradientOp());

}  // namespace
}  // namespace kvision
