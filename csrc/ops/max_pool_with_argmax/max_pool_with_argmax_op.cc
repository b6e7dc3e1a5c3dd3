#include "common/op.h"
#include "ops/max_pool_with_argmax/max_pool_with_argmax.h"

namespace kvision {
namespace {

constexpr char kPooled[] = "batch output_height output_width channels";

// What a shape function does not know yet is taken to be right.
MaxPoolAxis Axis(const Attributes& attributes, int axis, int64_t size) {
  const auto value = [&](const char* name, int index, int64_t while_unknown) {
    return attributes.Has(name) ? attributes.Ints(name)[index] : while_unknown;
  };
  const int64_t length = value("pool_size", axis, kMaxPoolMaxCells);
  return {size, value("output_shape", 1 + axis, 0), length, value("strides", axis, 1),
          value("offset", axis, 0)};
}

MaxPoolParameters Parameters(const Attributes& attributes, const Sizes& sizes) {
  return {sizes["batch"], sizes["channels"], Axis(attributes, 0, sizes["height"]),
          Axis(attributes, 1, sizes["width"])};
}

std::string Check(const Attributes& attributes, const Sizes& sizes) {
  return CheckMaxPool(Parameters(attributes, sizes));
}

template <typename T>
Error Run(const Call& call) {
  const MaxPoolParameters parameters = Parameters(call.attributes, call.sizes);
  const T* x = call.In<T>("x");
  T* pooled = call.Out<T>("pooled");
  int32_t* argmax = call.Out<int32_t>("argmax");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return MaxPoolWithArgmaxCuda<T>(parameters, x, pooled, argmax, call.device.stream);
    });
  }
#endif
  MaxPoolWithArgmax<T>(parameters, x, pooled, argmax, call.device.parallel_for);
  return {};
}

Error RunFor(const Call& call) {
  if (call.HasNoOutput()) return {};
  return call.For<Half, BFloat16, float, double>(
      [&](auto type) { return Run<decltype(type)>(call); });
}

Op Make() {
  Op op("max_pool_with_argmax", R"(Max pooling that tells where each maximum was.

x: (batch, height, width, channels), fewer than 2^31 cells a map.
pool_size, strides: of the windows, as (height, width).
offset: where the first window begins, as (rows, columns) above and left of the map.
output_shape: (batch, output_height, output_width, channels).
pooled: the maximum of each window.
argmax: the cell y * width + x of each value, the first of the largest.
)");
  op.dtypes = {"float16", "bfloat16", "float32", "float64"};
  op.inputs = {{"x", "T", "batch height width channels"}};
  op.outputs = {{"pooled", "T", kPooled, nullptr, "output_shape"},
                {"argmax", "int32", kPooled, nullptr, "output_shape"}};
  op.attributes = {{"pool_size", Kind::kInts, nullptr, "2"},
                   {"strides", Kind::kInts, nullptr, "2"},
                   {"offset", Kind::kInts, nullptr, "2"},
                   {"output_shape", Kind::kInts, nullptr, "4"}};
  op.check = &Check;
  op.run = &RunFor;
  return op;
}

const RegisteredOp max_pool_with_argmax(Make());

}  // namespace
}  // namespace kvision
