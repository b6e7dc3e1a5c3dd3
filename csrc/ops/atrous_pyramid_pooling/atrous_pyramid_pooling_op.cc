#include <vector>

#include "common/op.h"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling.h"

namespace kvision {
namespace {

constexpr char kX[] = "images height width in_channels";
constexpr char kKernels[] = "*kernel_height *kernel_width in_channels +filters";
constexpr char kOutput[] = "images height width filters";

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  Span<const int64_t> rates = {nullptr, 0};
  if (attributes.Has("dilation_rates")) rates = View(attributes.Ints("dilation_rates"));
  return CheckAtrousRates(sizes["num_branches"], rates);
}

AtrousMap MapOf(const Call& call) {
  const Sizes& sizes = call.sizes;
  return {sizes["images"], sizes["height"], sizes["width"], sizes["in_channels"], sizes["filters"]};
}

// Of kernels that are read, or of gradients that are written.
template <typename Data>
std::vector<AtrousBranch<Data>> Branches(const Call& call, Span<const Tensor> kernels) {
  std::vector<AtrousBranch<Data>> branches;
  int64_t first_filter = 0;
  for (int64_t i = 0; i < kernels.size; ++i) {
    const Span<const int64_t> shape = kernels[i].shape;
    branches.push_back({static_cast<Data*>(kernels[i].data), shape[0], shape[1], shape[3],
                        call.attributes.Ints("dilation_rates")[i], first_filter});
    first_filter += shape[3];
  }
  return branches;
}

template <typename Data>
Span<const AtrousBranch<Data>> SpanOf(const std::vector<AtrousBranch<Data>>& branches) {
  return {branches.data(), static_cast<int64_t>(branches.size())};
}

template <typename T>
Error Forward(const Call& call) {
  const auto branches = Branches<const T>(call, call.Inputs("kernels"));
  const T* x = call.In<T>("x");
  const T* biases = call.In<T>("biases");
  const bool relu = call.attributes.Bool("relu");
  T* output = call.Out<T>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return AtrousPyramidForwardCuda<T>(MapOf(call), x, SpanOf(branches), biases, relu, output,
                                         call.device.stream);
    });
  }
#endif
  AtrousPyramidForward<T>(MapOf(call), x, SpanOf(branches), biases, relu, output,
                          call.device.parallel_for);
  return {};
}

template <typename T>
Error Backward(const Call& call) {
  const auto branches = Branches<const T>(call, call.Inputs("kernels"));
  const T* output_gradient = call.In<T>("output_gradient");
  T* x_gradient = call.Out<T>("x_gradient");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return AtrousPyramidBackwardCuda<T>(MapOf(call), output_gradient, SpanOf(branches),
                                          x_gradient, call.device.stream);
    });
  }
#endif
  AtrousPyramidBackward<T>(MapOf(call), output_gradient, SpanOf(branches), x_gradient,
                           call.device.parallel_for);
  return {};
}

template <typename T>
Error KernelBackward(const Call& call) {
  const auto branches = Branches<T>(call, call.Outputs("kernel_gradients"));
  const T* x = call.In<T>("x");
  const T* output_gradient = call.In<T>("output_gradient");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return AtrousPyramidKernelBackwardCuda<T>(MapOf(call), x, output_gradient, SpanOf(branches),
                                                call.device.stream);
    });
  }
#endif
  AtrousPyramidKernelBackward<T>(MapOf(call), x, output_gradient, SpanOf(branches),
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

Error RunKernelBackward(const Call& call) {
  if (call.HasNoOutput()) return {};
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return KernelBackward<decltype(type)>(call); });
}

Op Described(const char* name, const char* doc) {
  Op op(name, doc);
  op.speaker = "atrous_pyramid_pooling";
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.attributes = {{"dilation_rates", Kind::kInts, nullptr, "num_branches"}};
  op.check = &Check;
  return op;
}

Op AtrousPyramidPooling() {
  Op op = Described("atrous_pyramid_pooling",
                    R"(Convolutions of one input at several dilation rates, side by side.

x: (images, height, width, in_channels).
kernels: of each branch (kernel_height, kernel_width, in_channels, its filters).
biases: of all filters.
dilation_rates: of each branch, at least 1.
relu: whether what is below zero becomes zero.
output: (images, height, width, filters).
)");
  op.inputs = {
      {"x", "T", kX}, {"kernels", "T", kKernels, "num_branches"}, {"biases", "T", "filters"}};
  op.outputs = {{"output", "T", kOutput}};
  op.attributes.push_back({"relu", Kind::kBool, "false"});
  op.run = &RunForward;
  return op;
}

Op AtrousPyramidPoolingGradient() {
  Op op = Described("atrous_pyramid_pooling_gradient",
                    "Gradient of atrous_pyramid_pooling without `relu` with respect to x.\n");
  op.inputs = {{"kernels", "T", kKernels, "num_branches"}, {"output_gradient", "T", kOutput}};
  op.outputs = {{"x_gradient", "T", kX}};
  op.run = &RunBackward;
  return op;
}

Op AtrousPyramidPoolingKernelGradient() {
  Op op =
      Described("atrous_pyramid_pooling_kernel_gradient",
                R"(Gradient of atrous_pyramid_pooling without `relu` with respect to the kernels.

kernel_shapes: of the kernels, one row each.
)");
  op.inputs = {{"x", "T", kX}, {"output_gradient", "T", kOutput}};
  op.outputs = {{"kernel_gradients", "T", kKernels, "num_branches", "kernel_shapes"}};
  op.attributes.push_back({"kernel_shapes", Kind::kInts, nullptr, "num_branches 4"});
  op.run = &RunKernelBackward;
  return op;
}

const RegisteredOp atrous_pyramid_pooling(AtrousPyramidPooling());
const RegisteredOp atrous_pyramid_pooling_gradient(AtrousPyramidPoolingGradient());
const RegisteredOp atrous_pyramid_pooling_kernel_gradient(AtrousPyramidPoolingKernelGradient());

}  // namespace
}  // namespace kvision
