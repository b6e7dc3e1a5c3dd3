// Kvision>MatchBoxes: the TensorFlow op.
#include "ops/match_boxes/match_boxes.h"
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

absl::Status InferShapes(InferenceContext* c) {
  Sizes sizes("match_boxes");
  TF_RETURN_IF_ERROR(MatchInputs(c, kMatchBoxesInputs, &sizes));
  return SetOutputs(c, kMatchBoxesOutputs, sizes);
}

REGISTER_OP("Kvision>MatchBoxes")
    .Input("boxes: float")
    .Input("valid: bool")
    .Input("crowd: bool")
    .Input("candidates: float")
    .Attr("positive_threshold: float")
    .Attr("negative_threshold: float")
    .Attr("allow_low_quality: bool = false")
    .Attr("crowd_overlap: float = 0.7")
    .Output("matches: int32")
    .Output("status: int32")
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Which box of the ground truth each candidate stands for, by IoU, without a matrix of IoUs.

boxes: (B, M, 4), x1 y1 x2 y2.
valid: (B, M). False marks padding.
crowd: (B, M). Negative candidates that lie in such a box are ignored.
candidates: (B, N, 4), or (1, N, 4) where images share them.
matches: (B, N), the valid box of the greatest IoU.
status: (B, N), 1 for positive, 0 for negative, -1 for ignored.
)doc");

template <bool kOnGpu>
class MatchBoxesOp : public OpKernel {
 public:
  explicit MatchBoxesOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("positive_threshold", &attributes_.positive_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("negative_threshold", &attributes_.negative_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("allow_low_quality", &attributes_.allow_low_quality));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("crowd_overlap", &attributes_.crowd_overlap));
    OP_REQUIRES_OK(ctx, StatusOf(CheckMatchBoxes(attributes_)));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes("match_boxes");
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kMatchBoxesInputs, &sizes));
    const MatchBoxesShape shape{sizes["batch"], sizes["num_candidates"], sizes["num_boxes"],
                                ctx->input(3).dim_size(0) != sizes["batch"]};
    OP_REQUIRES(ctx, shape.num_boxes <= INT32_MAX,
                StatusOf(Complaint("match_boxes",
                                   "at most 2^31 - 1 boxes. Received: ", shape.num_boxes, ".")));
    Tensor *matches_tensor, *status_tensor;
    OP_REQUIRES_OK(
        ctx, AllocateOutputs(ctx, kMatchBoxesOutputs, sizes, &matches_tensor, &status_tensor));
    const float* boxes = ctx->input(0).flat<float>().data();
    const bool* valid = ctx->input(1).flat<bool>().data();
    const bool* crowd = ctx->input(2).flat<bool>().data();
    const float* candidates = ctx->input(3).flat<float>().data();
    int32_t* matches = matches_tensor->flat<int32_t>().data();
    int32_t* status = status_tensor->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, MatchBoxesCudaWorkspace(shape), &workspace));
      OP_REQUIRES_OK(ctx,
                     CudaStatus("match_boxes",
                                MatchBoxesCuda(boxes, valid, crowd, candidates, shape, attributes_,
                                               workspace.data(), matches, status, StreamOf(ctx))));
    } else {
      MatchBoxesCpu(boxes, valid, crowd, candidates, shape, attributes_, matches, status,
                    PoolFor(ctx));
    }
  }

 private:
  MatchBoxesAttributes attributes_;
};

REGISTER_KERNEL_BUILDER(Name("Kvision>MatchBoxes").Device(tensorflow::DEVICE_CPU),
                        MatchBoxesOp<false>);
#ifdef KVISION_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("Kvision>MatchBoxes").Device(tensorflow::DEVICE_GPU),
                        MatchBoxesOp<true>);
#endif

}  // namespace
}  // namespace kvision
