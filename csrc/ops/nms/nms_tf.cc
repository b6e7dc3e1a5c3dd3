// Kvision>Nms: the TensorFlow op.
#include "ops/nms/nms.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/cuda.h"
#include "tensorflow/op_shapes.h"

namespace kvision {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;

absl::Status InferShapes(InferenceContext* c) {
  Sizes sizes("nms");
  int64_t max_output_size;
  TF_RETURN_IF_ERROR(MatchInputs(c, kNmsInputs, &sizes));
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &max_output_size));
  sizes.Set("size", NmsOutputSize(sizes["num_boxes"], max_output_size));
  return SetOutputs(c, kNmsOutputs, sizes);
}

REGISTER_OP("Kvision>Nms")
    .Input("boxes: float")
    .Input("scores: float")
    .Attr("iou_threshold: float")
    .Attr("score_threshold: float")
    .Attr("max_output_size: int >= -1 = -1")
    .Output("indices: int32")
    .Output("count: int32")
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Greedy non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
  double down.
score_threshold: -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes kept by descending score, padded with -1.
count: how many are kept.
)doc");

template <bool kOnGpu>
class NmsOp : public OpKernel {
 public:
  explicit NmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("iou_threshold", &attributes_.iou_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    OP_REQUIRES_OK(ctx, StatusOf(CheckNms(attributes_)));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes("nms");
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kNmsInputs, &sizes));
    const int64_t num_boxes = sizes["num_boxes"];
    OP_REQUIRES(ctx, num_boxes <= INT32_MAX,
                StatusOf(Complaint("nms", "at most 2^31 - 1 boxes. Received: ", num_boxes, ".")));
    sizes.Set("size", NmsOutputSize(num_boxes, attributes_.max_output_size));
    Tensor* indices_tensor;
    Tensor* count_tensor;
    OP_REQUIRES_OK(ctx, AllocateOutputs(ctx, kNmsOutputs, sizes, &indices_tensor, &count_tensor));
    const float* boxes = ctx->input(0).flat<float>().data();
    const float* scores = ctx->input(1).flat<float>().data();
    int32_t* indices = indices_tensor->flat<int32_t>().data();
    int32_t* count = count_tensor->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, NmsCudaWorkspace(num_boxes), &workspace));
      OP_REQUIRES_OK(
          ctx, CudaStatus("nms", NmsCuda(boxes, scores, num_boxes, attributes_, workspace.data(),
                                         indices, count, StreamOf(ctx))));
    } else {
      NmsCpu(boxes, scores, num_boxes, attributes_, indices, count);
    }
  }

 private:
  NmsAttributes attributes_;
};

REGISTER_KERNEL_BUILDER(Name("Kvision>Nms").Device(tensorflow::DEVICE_CPU), NmsOp<false>);
#ifdef KVISION_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("Kvision>Nms").Device(tensorflow::DEVICE_GPU), NmsOp<true>);
#endif

}  // namespace
}  // namespace kvision
