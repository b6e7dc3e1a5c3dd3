// Kvision>BatchedNms: the TensorFlow op.
#include "ops/batched_nms/batched_nms.h"
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
  Sizes sizes("batched_nms");
  int64_t size;
  TF_RETURN_IF_ERROR(MatchInputs(c, kBatchedNmsInputs, &sizes));
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &size));
  sizes.Set("size", size);
  return SetOutputs(c, kBatchedNmsOutputs, sizes);
}

REGISTER_OP("Kvision>BatchedNms")
    .Input("boxes: float")
    .Input("scores: float")
    .Attr("iou_threshold: float")
    .Attr("score_threshold: float")
    .Attr("max_output_size: int >= 1")
    .Attr("max_output_size_per_class: int >= 1")
    .Output("indices: int32")
    .Output("labels: int32")
    .Output("num_detections: int32")
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Greedy non-maximum suppression within every image and class, merged into each image's best.

Detections descend by score; equal scores ascend by box index, then by class.

boxes: (B, N, C, 4), or (B, N, 1, 4) where classes share boxes; x1 y1 x2 y2.
scores: (B, N, C). Only scores greater than `score_threshold` are candidates; NaN and -inf never
  are.
iou_threshold: boxes are suppressed above it. Compared with float IoUs as the float it is: round a
  double down.
score_threshold: -inf for none.
max_output_size: K, detections an image.
max_output_size_per_class: detections of each class of an image at most.
indices: (B, K), the box of each detection, padded with -1.
labels: (B, K), the class of each detection, padded with -1.
num_detections: (B,).
)doc");

template <bool kOnGpu>
class BatchedNmsOp : public OpKernel {
 public:
  explicit BatchedNmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("iou_threshold", &attributes_.iou_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    OP_REQUIRES_OK(
        ctx, ctx->GetAttr("max_output_size_per_class", &attributes_.max_output_size_per_class));
    OP_REQUIRES_OK(ctx, StatusOf(CheckBatchedNms(attributes_)));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes("batched_nms");
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kBatchedNmsInputs, &sizes));
    const BatchedNmsShape shape{sizes["batch"], sizes["num_boxes"], sizes["num_classes"],
                                ctx->input(0).dim_size(2) == 1};
    OP_REQUIRES(
        ctx, shape.num_boxes * shape.num_classes <= INT32_MAX,
        StatusOf(Complaint("batched_nms", "at most 2^31 - 1 boxes times classes. Received: ",
                           shape.num_boxes, " times ", shape.num_classes, ".")));
    sizes.Set("size", attributes_.max_output_size);
    Tensor *indices, *labels, *num_detections;
    OP_REQUIRES_OK(
        ctx, AllocateOutputs(ctx, kBatchedNmsOutputs, sizes, &indices, &labels, &num_detections));
    if (shape.batch == 0) return;
    const float* boxes = ctx->input(0).flat<float>().data();
    const float* scores = ctx->input(1).flat<float>().data();
    int32_t* index_data = indices->flat<int32_t>().data();
    int32_t* label_data = labels->flat<int32_t>().data();
    int32_t* number_data = num_detections->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, BatchedNmsCudaWorkspace(shape), &workspace));
      OP_REQUIRES_OK(
          ctx, CudaStatus("batched_nms",
                          BatchedNmsCuda(boxes, scores, shape, attributes_, workspace.data(),
                                         index_data, label_data, number_data, StreamOf(ctx))));
    } else {
      BatchedNmsCpu(boxes, scores, shape, attributes_, index_data, label_data, number_data,
                    PoolFor(ctx));
    }
  }

 private:
  BatchedNmsAttributes attributes_;
};

REGISTER_KERNEL_BUILDER(Name("Kvision>BatchedNms").Device(tensorflow::DEVICE_CPU),
                        BatchedNmsOp<false>);
#ifdef KVISION_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("Kvision>BatchedNms").Device(tensorflow::DEVICE_GPU),
                        BatchedNmsOp<true>);
#endif

}  // namespace
}  // namespace kvision
