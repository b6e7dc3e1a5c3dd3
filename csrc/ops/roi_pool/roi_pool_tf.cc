// Kvision>RoiPool and its gradient as TensorFlow ops.
#include <cstdint>

#include "ops/roi_pool/roi_pool.h"
#include "tensorflow/box_type.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/cuda.h"
#include "tensorflow/op_shapes.h"
#include "tensorflow/parallel.h"
#include "tensorflow/types.h"

namespace kvision {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr char kName[] = "roi_pool";

RoiPoolParameters Parameters(const Sizes& sizes, double spatial_scale) {
  return {sizes["batch"], sizes["num_boxes"],     sizes["channels"],     sizes["height"],
          sizes["width"], sizes["output_height"], sizes["output_width"], spatial_scale};
}

absl::Status RoiPoolShape(InferenceContext* c) {
  int64_t output_height, output_width;
  TF_RETURN_IF_ERROR(CheckBoxType(kName, c));
  TF_RETURN_IF_ERROR(c->GetAttr("output_height", &output_height));
  TF_RETURN_IF_ERROR(c->GetAttr("output_width", &output_width));
  Sizes sizes(kName);
  sizes.Set("output_height", output_height);
  sizes.Set("output_width", output_width);
  TF_RETURN_IF_ERROR(MatchInputs(c, kRoiPoolInputs, &sizes));
  TF_RETURN_IF_ERROR(StatusOf(CheckRoiPool(Parameters(sizes, 1.0))));
  return SetOutputs(c, kRoiPoolOutputs, sizes);
}

absl::Status RoiPoolGradShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(CheckBoxType(kName, c));
  Sizes sizes(kName);
  TF_RETURN_IF_ERROR(MatchInputs(c, kRoiPoolGradInputs, &sizes));
  ShapeHandle shape;
  if (!c->MakeShapeFromShapeTensor(4, &shape).ok()) {
    return StatusOf(
        Complaint(kName, "`feature_shape` must hold four sizes, none of them negative."));
  }
  TF_RETURN_IF_ERROR(MatchStatic(c, shape, kRoiPoolFeatures, &sizes));
  return SetOutputs(c, kRoiPoolGradOutputs, sizes);
}

REGISTER_OP("Kvision>RoiPool")
    .Input("features: T")
    .Input("boxes: BoxT")
    .Input("spatial_scale: double")
    .Output("output: T")
    .Output("argmax: int32")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("BoxT: {float, double}")
    .Attr("output_height: int")
    .Attr("output_width: int")
    .SetShapeFn(RoiPoolShape)
    .Doc(R"doc(
Maximum of the features in the bins of each box.

features: (batch, height, width, channels), fewer than 2^31 cells a map.
boxes: (batch, num_boxes, 4), x1 y1 x2 y2.
spatial_scale: cells of the map per unit of the boxes.
output: (batch, num_boxes, output_height, output_width, channels), 0 where a bin has no cells.
argmax: the cell y * width + x of each value, -1 where a bin has no cells.
)doc");

REGISTER_OP("Kvision>RoiPoolGrad")
    .Input("output_gradient: T")
    .Input("argmax: int32")
    .Input("boxes: BoxT")
    .Input("spatial_scale: double")
    .Input("feature_shape: int64")
    .Output("feature_gradient: T")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("BoxT: {float, double}")
    .SetShapeFn(RoiPoolGradShape)
    .Doc(
        "Gradient of RoiPool with respect to its features. `boxes` and `spatial_scale` must be "
        "those that gave `argmax`.");

template <typename T, bool kOnGpu>
class RoiPoolOp : public OpKernel {
  using Element = KernelTypeOf<T>;

 public:
  explicit RoiPoolOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, CheckBoxType(kName, ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_height", &output_height_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_width", &output_width_));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes(kName);
    sizes.Set("output_height", output_height_);
    sizes.Set("output_width", output_width_);
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kRoiPoolInputs, &sizes));
    const RoiPoolParameters parameters = Parameters(sizes, ctx->input(2).scalar<double>()());
    OP_REQUIRES_OK(ctx, StatusOf(CheckRoiPool(parameters)));
    Tensor *output, *argmax;
    OP_REQUIRES_OK(ctx, AllocateOutputs(ctx, kRoiPoolOutputs, sizes, &output, &argmax));
    if (output->NumElements() == 0) return;
    const Element* features = DataOf<T>(ctx->input(0));
    const auto* boxes = ctx->input(1).flat<RoiPoolBox<Element>>().data();
    int32_t* cells = argmax->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      OP_REQUIRES_OK(ctx, CudaStatus(kName, RoiPoolForwardCuda<Element>(parameters, features, boxes,
                                                                        DataOf<T>(output), cells,
                                                                        StreamOf(ctx))));
    } else {
      RoiPoolForward<Element>(parameters, features, boxes, DataOf<T>(output), cells, PoolFor(ctx));
    }
  }

 private:
  int64_t output_height_, output_width_;
};

template <typename T, bool kOnGpu>
class RoiPoolGradOp : public OpKernel {
  using Element = KernelTypeOf<T>;

 public:
  explicit RoiPoolGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, CheckBoxType(kName, ctx));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes(kName);
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kRoiPoolGradInputs, &sizes));
    TensorShape shape;
    OP_REQUIRES(ctx, TensorShape::BuildTensorShape(ctx->input(4).vec<int64_t>(), &shape).ok(),
                StatusOf(Complaint(kName, "`feature_shape` must hold no negative size. Received: ",
                                   ctx->input(4).SummarizeValue(4), ".")));
    OP_REQUIRES_OK(ctx, MatchShape(shape, kRoiPoolFeatures, &sizes));
    const RoiPoolParameters parameters = Parameters(sizes, ctx->input(3).scalar<double>()());
    OP_REQUIRES_OK(ctx, StatusOf(CheckRoiPool(parameters)));
    Tensor* gradient;
    OP_REQUIRES_OK(ctx, AllocateOutputs(ctx, kRoiPoolGradOutputs, sizes, &gradient));
    if (gradient->NumElements() == 0) return;
    const Element* output_gradient = DataOf<T>(ctx->input(0));
    const int32_t* argmax = ctx->input(1).flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx,
                     AllocateWorkspace(ctx, RoiPoolBackwardCudaWorkspace(parameters), &workspace));
      OP_REQUIRES_OK(ctx,
                     CudaStatus(kName, RoiPoolBackwardCuda<Element>(
                                           parameters, output_gradient, argmax,
                                           ctx->input(2).flat<RoiPoolBox<Element>>().data(),
                                           DataOf<T>(gradient), workspace.data(), StreamOf(ctx))));
    } else {
      RoiPoolBackward<Element>(parameters, output_gradient, argmax, DataOf<T>(gradient),
                               PoolFor(ctx));
    }
  }
};

#define KVISION_REGISTER(T)                                                              \
  REGISTER_KERNEL_BUILDER(                                                               \
      Name("Kvision>RoiPool").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),     \
      RoiPoolOp<T, false>);                                                              \
  REGISTER_KERNEL_BUILDER(                                                               \
      Name("Kvision>RoiPoolGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      RoiPoolGradOp<T, false>);
KVISION_REGISTER(Eigen::half)
KVISION_REGISTER(Eigen::bfloat16)
KVISION_REGISTER(float)
KVISION_REGISTER(double)
#undef KVISION_REGISTER

#ifdef KVISION_WITH_CUDA
#define KVISION_REGISTER(T)                                   \
  REGISTER_KERNEL_BUILDER(Name("Kvision>RoiPool")             \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("spatial_scale")    \
                              .TypeConstraint<T>("T"),        \
                          RoiPoolOp<T, true>);                \
  REGISTER_KERNEL_BUILDER(Name("Kvision>RoiPoolGrad")         \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("spatial_scale")    \
                              .HostMemory("feature_shape")    \
                              .TypeConstraint<T>("T"),        \
                          RoiPoolGradOp<T, true>);
KVISION_REGISTER(Eigen::half)
KVISION_REGISTER(Eigen::bfloat16)
KVISION_REGISTER(float)
KVISION_REGISTER(double)
#undef KVISION_REGISTER
#endif

}  // namespace
}  // namespace kvision
