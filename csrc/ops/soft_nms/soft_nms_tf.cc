// Kvision>SoftNms: the TensorFlow op.
#include "ops/soft_nms/soft_nms.h"
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
  Sizes sizes("soft_nms");
  int64_t max_output_size;
  TF_RETURN_IF_ERROR(MatchInputs(c, kSoftNmsInputs, &sizes));
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &max_output_size));
  sizes.Set("size", SelectionSize(sizes["num_boxes"], max_output_size));
  return SetOutputs(c, kSoftNmsOutputs, sizes);
}

REGISTER_OP("Kvision>SoftNms")
    .Input("boxes: float")
    .Input("scores: float")
    .Input("labels: int32")
    .Attr("method: string = 'gaussian'")
    .Attr("sigma: float = 0.5")
    .Attr("iou_threshold: float = 0.3")
    .Attr("score_threshold: float = 0.001")
    .Attr("max_output_size: int >= -1 = -1")
    .Output("indices: int32")
    .Output("decayed_scores: float")
    .Output("count: int32")
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Soft non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
labels: (N,). Boxes of different labels do not see each other.
method: "linear": scores are multiplied by 1 - IoU above `iou_threshold`. "gaussian": by
  exp(-IoU^2 / sigma).
sigma: of the Gaussian, positive.
iou_threshold: of the linear method. Compared with float IoUs as the float it is.
score_threshold: -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes by order of selection, padded with -1.
decayed_scores: their scores when they were selected, padded with 0.
count: how many are selected.
)doc");

template <bool kOnGpu>
class SoftNmsOp : public OpKernel {
 public:
  explicit SoftNmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string method;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("method", &method));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sigma", &attributes_.sigma));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("iou_threshold", &attributes_.iou_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    OP_REQUIRES_OK(ctx, StatusOf(ParseDecayMethod("soft_nms", method, &attributes_.method)));
    OP_REQUIRES_OK(ctx, StatusOf(CheckSoftNms(attributes_)));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes("soft_nms");
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kSoftNmsInputs, &sizes));
    const int64_t num_boxes = sizes["num_boxes"];
    OP_REQUIRES_OK(ctx, StatusOf(CheckNumBoxes("soft_nms", num_boxes)));
    sizes.Set("size", SelectionSize(num_boxes, attributes_.max_output_size));
    Tensor* outputs[3];
    OP_REQUIRES_OK(
        ctx, AllocateOutputs(ctx, kSoftNmsOutputs, sizes, &outputs[0], &outputs[1], &outputs[2]));
    const float* boxes = ctx->input(0).flat<float>().data();
    const float* scores = ctx->input(1).flat<float>().data();
    const int32_t* labels = ctx->input(2).flat<int32_t>().data();
    int32_t* indices = outputs[0]->flat<int32_t>().data();
    float* decayed_scores = outputs[1]->flat<float>().data();
    int32_t* count = outputs[2]->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, SoftNmsCudaWorkspace(num_boxes), &workspace));
      OP_REQUIRES_OK(
          ctx, CudaStatus("soft_nms", SoftNmsCuda(boxes, scores, labels, num_boxes, attributes_,
                                                  workspace.data(), indices, decayed_scores, count,
                                                  StreamOf(ctx))));
    } else {
      SoftNmsCpu(boxes, scores, labels, num_boxes, attributes_, indices, decayed_scores, count);
    }
  }

 private:
  SoftNmsAttributes attributes_;
};

REGISTER_KERNEL_BUILDER(Name("Kvision>SoftNms").Device(tensorflow::DEVICE_CPU), SoftNmsOp<false>);
#ifdef KVISION_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("Kvision>SoftNms").Device(tensorflow::DEVICE_GPU), SoftNmsOp<true>);
#endif

}  // namespace
}  // namespace kvision
