#include "common/op.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"

namespace kvision {
namespace {

constexpr char kX[] = "images height width channels";
constexpr char kKernels[] = "num_weights";
constexpr char kBiases[] = "output_channels";
constexpr char kOutput[] = "images height width output_channels";

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  const std::string& activation = attributes.String("activation");
  if (activation != "none" && activation != "relu") {
    return Complaint(sizes.op(), "`activation` must be none or relu. Received: ", activation, ".");
  }
  if (!attributes.Has("kernel_sizes") || !attributes.Has("dilation_rates")) return {};
  return CheckDepthwiseAtrous(View(attributes.Ints("kernel_sizes")),
                              View(attributes.Ints("dilation_rates")), sizes["channels"],
                              sizes["num_weights"], sizes["output_channels"]);
}

DepthwiseAtrousParameters Parameters(const Call& call) {
  const Sizes& sizes = call.sizes;
  DepthwiseAtrousParameters parameters{};
  parameters.images = sizes["images"];
  parameters.height = sizes["height"];
  parameters.width = sizes["width"];
  parameters.channels = sizes["channels"];
  parameters.relu = call.attributes.String("activation") == "relu";
  int64_t first_tap = 0;
  for (const int64_t size : call.attributes.Ints("kernel_sizes")) {
    const int branch = parameters.num_branches++;
    const int64_t rate = call.attributes.Ints("dilation_rates")[branch];
    parameters.branches[branch] = {size, rate, first_tap};
    first_tap += parameters.branches[branch].Taps();
  }
  return parameters;
}

template <typename T>
Error Forward(const Call& call) {
  const DepthwiseAtrousParameters parameters = Parameters(call);
  const T* x = call.In<T>("x");
  const T* kernels = call.In<T>("kernels");
  const T* biases = call.In<T>("biases");
  T* output = call.Out<T>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return DepthwiseAtrousForwardCuda<T>(parameters, x, kernels, biases, output,
                                           call.device.stream);
    });
  }
#endif
  DepthwiseAtrousForward<T>(parameters, x, kernels, biases, output, call.device.parallel_for);
  return {};
}

template <typename T>
Error Backward(const Call& call) {
  const DepthwiseAtrousParameters parameters = Parameters(call);
  const T* output_gradient = call.In<T>("output_gradient");
  const T* output = call.In<T>("output");
  const T* x = call.In<T>("x");
  const T* kernels = call.In<T>("kernels");
  const DepthwiseAtrousGradients<T> gradients = {
      call.Out<T>("x_gradient"), call.Out<T>("kernel_gradient"), call.Out<T>("bias_gradient")};
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(DepthwiseAtrousBackwardCudaWorkspace<T>(parameters), [&](void* workspace) {
      return DepthwiseAtrousBackwardCuda<T>(parameters, output_gradient, output, x, kernels,
                                            gradients, workspace, call.device.stream);
    });
  }
#endif
  DepthwiseAtrousBackward<T>(parameters, output_gradient, output, x, kernels, gradients,
                             call.device.parallel_for);
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

std::vector<AttributeRule> Shared() {
  return {{"kernel_sizes", Kind::kInts, nullptr, "num_branches"},
          {"dilation_rates", Kind::kInts, nullptr, "num_branches"},
          {"activation", Kind::kString, "none"}};
}

Op DepthwiseAtrousPyramidPooling() {
  Op op("depthwise_atrous_pyramid_pooling",
        R"(Depthwise atrous convolutions of one input, side by side.

x: (images, height, width, channels).
kernels: those of all branches, (size, size, channels), one after the other.
biases: those of all branches, (channels,), one after the other.
kernel_sizes: the odd side of each branch's kernel.
dilation_rates: the distance of each branch's taps.
activation: "none" or "relu".
output: (images, height, width, num_branches * channels).
)");
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"x", "T", kX}, {"kernels", "T", kKernels}, {"biases", "T", kBiases}};
  op.outputs = {{"output", "T", kOutput}};
  op.attributes = Shared();
  op.check = &Check;
  op.run = &RunForward;
  return op;
}

Op DepthwiseAtrousPyramidPoolingGradient() {
  Op op("depthwise_atrous_pyramid_pooling_gradient",
        R"(Gradients of depthwise_atrous_pyramid_pooling with respect to its tensors.

output: what it gave, which tells where a ReLU let it pass.
)");
  op.speaker = "depthwise_atrous_pyramid_pooling";
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"output_gradient", "T", kOutput},
               {"output", "T", kOutput},
               {"x", "T", kX},
               {"kernels", "T", kKernels}};
  op.outputs = {
      {"x_gradient", "T", kX}, {"kernel_gradient", "T", kKernels}, {"bias_gradient", "T", kBiases}};
  op.attributes = Shared();
  op.check = &Check;
  op.run = &RunBackward;
  return op;
}

const RegisteredOp depthwise_atrous_pyramid_pooling(DepthwiseAtrousPyramidPooling());
const RegisteredOp depthwise_atrous_pyramid_pooling_gradient(
    DepthwiseAtrousPyramidPoolingGradient());

}  // namespace
}  // namespace kvision
