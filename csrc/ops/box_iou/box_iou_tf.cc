// Kvision>BoxIou and its gradient as TensorFlow ops.
#include <string>

#include "ops/box_iou/box_iou.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/cuda.h"
#include "tensorflow/op_shapes.h"
#include "tensorflow/parallel.h"

namespace kvision {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;

// The attributes, of a kernel under construction and of a shape function alike.
template <typename Context>
absl::Status ReadAttributes(Context* context, IouKind* kind, bool* pairwise) {
  std::string name;
  TF_RETURN_IF_ERROR(context->GetAttr("kind", &name));
  TF_RETURN_IF_ERROR(context->GetAttr("pairwise", pairwise));
  return StatusOf(ParseIouKind(name, *pairwise, kind));
}

// Boxes at `first` and after it, in a shape function or in a kernel.
template <typename Context>
absl::Status MatchBoxes(Context* context, bool pairwise, int first, Sizes* sizes) {
  return MatchInputs(context, pairwise ? kBoxIouInputs : kBoxIouElementwiseInputs, sizes, first);
}

ShapeRule OutputRule(bool pairwise, const char* tensor) {
  return {tensor, (pairwise ? kBoxIouOutput : kBoxIouElementwiseOutput).axes};
}

absl::Status ForwardShape(InferenceContext* c) {
  IouKind kind;
  bool pairwise;
  TF_RETURN_IF_ERROR(ReadAttributes(c, &kind, &pairwise));
  Sizes sizes(BoxIouName(pairwise));
  TF_RETURN_IF_ERROR(MatchBoxes(c, pairwise, 0, &sizes));
  return SetOutputs(c, {OutputRule(pairwise, "output")}, sizes);
}

absl::Status GradientShape(InferenceContext* c) {
  IouKind kind;
  bool pairwise;
  TF_RETURN_IF_ERROR(ReadAttributes(c, &kind, &pairwise));
  Sizes sizes(BoxIouName(pairwise));
  TF_RETURN_IF_ERROR(MatchBoxes(c, pairwise, 1, &sizes));
  TF_RETURN_IF_ERROR(MatchStatic(c, c->input(0), OutputRule(pairwise, "output_gradient"), &sizes));
  if (pairwise) return SetOutputs(c, kBoxIouInputs, sizes);
  return SetOutputs(c, kBoxIouElementwiseInputs, sizes);
}

REGISTER_OP("Kvision>BoxIou")
    .Input("boxes1: T")
    .Input("boxes2: T")
    .Output("output: T")
    .Attr("kind: string = 'iou'")
    .Attr("pairwise: bool = true")
    .Attr("T: {float, double}")
    .SetShapeFn(ForwardShape)
    .Doc("IoU, GIoU, DIoU or CIoU of every pair of boxes, or of the boxes at equal places.");

REGISTER_OP("Kvision>BoxIouGrad")
    .Input("output_gradient: T")
    .Input("boxes1: T")
    .Input("boxes2: T")
    .Output("gradient1: T")
    .Output("gradient2: T")
    .Attr("kind: string = 'iou'")
    .Attr("pairwise: bool = true")
    .Attr("T: {float, double}")
    .SetShapeFn(GradientShape)
    .Doc("Gradients of BoxIou with respect to both sets of boxes.");

class BoxIouKernel : public OpKernel {
 public:
  explicit BoxIouKernel(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &kind_, &pairwise_));
  }

 protected:
  BoxIouParameters Parameters(const Sizes& sizes) const {
    const int64_t num_boxes1 = sizes["num_boxes1"];
    return {sizes["batch"], num_boxes1, pairwise_ ? sizes["num_boxes2"] : num_boxes1, kind_,
            pairwise_};
  }

  IouKind kind_;
  bool pairwise_;
};

template <typename F, bool kOnGpu>
class BoxIouOp : public BoxIouKernel {
 public:
  using BoxIouKernel::BoxIouKernel;

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes(BoxIouName(pairwise_));
    OP_REQUIRES_OK(ctx, MatchBoxes(ctx, pairwise_, 0, &sizes));
    Tensor* output;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, OutputRule(pairwise_, "output"), sizes, &output));
    if (output->NumElements() == 0) return;
    const F* boxes1 = ctx->input(0).flat<F>().data();
    const F* boxes2 = ctx->input(1).flat<F>().data();
    F* data = output->flat<F>().data();
    if constexpr (kOnGpu) {
      OP_REQUIRES_OK(
          ctx, CudaStatus(sizes.op(), BoxIouForwardCuda<F>(Parameters(sizes), boxes1, boxes2, data,
                                                           StreamOf(ctx))));
    } else {
      BoxIouForward<F>(Parameters(sizes), boxes1, boxes2, data, PoolFor(ctx));
    }
  }
};

template <typename F, bool kOnGpu>
class BoxIouGradOp : public BoxIouKernel {
 public:
  using BoxIouKernel::BoxIouKernel;

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes(BoxIouName(pairwise_));
    OP_REQUIRES_OK(ctx, MatchBoxes(ctx, pairwise_, 1, &sizes));
    OP_REQUIRES_OK(
        ctx, MatchShape(ctx->input(0).shape(), OutputRule(pairwise_, "output_gradient"), &sizes));
    Tensor *gradient1, *gradient2;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, ctx->input(1).shape(), &gradient1));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, ctx->input(2).shape(), &gradient2));
    const F* upstream = ctx->input(0).flat<F>().data();
    const F* boxes1 = ctx->input(1).flat<F>().data();
    const F* boxes2 = ctx->input(2).flat<F>().data();
    F* data1 = gradient1->flat<F>().data();
    F* data2 = gradient2->flat<F>().data();
    if constexpr (kOnGpu) {
      OP_REQUIRES_OK(
          ctx, CudaStatus(sizes.op(), BoxIouBackwardCuda<F>(Parameters(sizes), upstream, boxes1,
                                                            boxes2, data1, data2, StreamOf(ctx))));
    } else {
      BoxIouBackward<F>(Parameters(sizes), upstream, boxes1, boxes2, data1, data2, PoolFor(ctx));
    }
  }
};

#define KVISION_REGISTER(DEVICE, F, ON_GPU)                                                 \
  REGISTER_KERNEL_BUILDER(Name("Kvision>BoxIou").Device(DEVICE).TypeConstraint<F>("T"),     \
                          BoxIouOp<F, ON_GPU>);                                             \
  REGISTER_KERNEL_BUILDER(Name("Kvision>BoxIouGrad").Device(DEVICE).TypeConstraint<F>("T"), \
                          BoxIouGradOp<F, ON_GPU>);
KVISION_REGISTER(tensorflow::DEVICE_CPU, float, false)
KVISION_REGISTER(tensorflow::DEVICE_CPU, double, false)
#ifdef KVISION_WITH_CUDA
KVISION_REGISTER(tensorflow::DEVICE_GPU, float, true)
KVISION_REGISTER(tensorflow::DEVICE_GPU, double, true)
#endif
#undef KVISION_REGISTER

}  // namespace
}  // namespace kvision
