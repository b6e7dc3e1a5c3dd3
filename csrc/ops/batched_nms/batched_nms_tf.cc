// Kvision>BatchedNms: the TensorFlow op.
#include "ops/batched_nms/batched_nms.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/parallel.h"
#include "tensorflow/stream.h"

namespace kvision {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

template <typename... Args>
absl::Status Refuse(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("batched_nms: ", args...));
}

constexpr char kBoxesShape[] =
    "`boxes` must have shape (batch, num_boxes, num_classes or 1, 4). Received: ";
constexpr char kScoresShape[] =
    "`scores` must have shape (batch, num_boxes, num_classes). Received: ";
constexpr char kSizesDiffer[] =
    "`boxes` and `scores` must have the same batch, num_boxes and, unless boxes have "
    "1, num_classes. Received: ";

absl::Status InferShapes(InferenceContext* c) {
  ShapeHandle boxes, scores;
  DimensionHandle batch, unused;
  if (!c->WithRank(c->input(0), 4, &boxes).ok() ||
      !c->WithValue(c->Dim(boxes, 3), 4, &unused).ok()) {
    return Refuse(kBoxesShape, c->DebugString(c->input(0)), ".");
  }
  if (!c->WithRank(c->input(1), 3, &scores).ok()) {
    return Refuse(kScoresShape, c->DebugString(c->input(1)), ".");
  }
  const bool shared = c->ValueKnown(c->Dim(boxes, 2)) && c->Value(c->Dim(boxes, 2)) == 1;
  if (!c->Merge(c->Dim(boxes, 0), c->Dim(scores, 0), &batch).ok() ||
      !c->Merge(c->Dim(boxes, 1), c->Dim(scores, 1), &unused).ok() ||
      (!shared && !c->Merge(c->Dim(boxes, 2), c->Dim(scores, 2), &unused).ok())) {
    return Refuse(kSizesDiffer, c->DebugString(boxes), " and ", c->DebugString(scores), ".");
  }
  int64_t size;
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &size));
  c->set_output(0, c->Matrix(batch, size));
  c->set_output(1, c->Matrix(batch, size));
  c->set_output(2, c->Vector(batch));
  return absl::OkStatus();
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

// What the CPU and the GPU kernel share: attributes, checks, outputs.
class BatchedNmsOp : public OpKernel {
 public:
  explicit BatchedNmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("iou_threshold", &attributes_.iou_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    OP_REQUIRES_OK(
        ctx, ctx->GetAttr("max_output_size_per_class", &attributes_.max_output_size_per_class));
    const float iou_threshold = attributes_.iou_threshold;
    OP_REQUIRES(ctx, iou_threshold >= 0.0f && iou_threshold <= 1.0f,
                Refuse("`iou_threshold` must be in [0, 1]. Received: ", iou_threshold, "."));
    OP_REQUIRES(ctx, attributes_.max_output_size <= INT32_MAX,
                Refuse("`max_output_size` must be below 2^31. Received: ",
                       attributes_.max_output_size, "."));
  }

  void Compute(OpKernelContext* ctx) override {
    const TensorShape& boxes = ctx->input(0).shape();
    const TensorShape& scores = ctx->input(1).shape();
    OP_REQUIRES(ctx, boxes.dims() == 4 && boxes.dim_size(3) == 4,
                Refuse(kBoxesShape, boxes.DebugString(), "."));
    OP_REQUIRES(ctx, scores.dims() == 3, Refuse(kScoresShape, scores.DebugString(), "."));
    const BatchedNmsShape shape{scores.dim_size(0), scores.dim_size(1), scores.dim_size(2),
                                boxes.dim_size(2) == 1};
    OP_REQUIRES(ctx,
                boxes.dim_size(0) == shape.batch && boxes.dim_size(1) == shape.num_boxes &&
                    (shape.shared_boxes || boxes.dim_size(2) == shape.num_classes),
                Refuse(kSizesDiffer, boxes.DebugString(), " and ", scores.DebugString(), "."));
    OP_REQUIRES(
        ctx, shape.num_boxes * shape.num_classes <= INT32_MAX,
        Refuse("at most 2^31 - 1 boxes times classes. Received: ", scores.DebugString(), "."));
    Tensor* indices;
    Tensor* labels;
    Tensor* num_detections;
    const TensorShape size{shape.batch, attributes_.max_output_size};
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, size, &indices));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, size, &labels));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(2, {shape.batch}, &num_detections));
    if (shape.batch == 0) return;
    Run(ctx, shape, indices->flat<int32_t>().data(), labels->flat<int32_t>().data(),
        num_detections->flat<int32_t>().data());
  }

 protected:
  virtual void Run(OpKernelContext* ctx, const BatchedNmsShape& shape, int32_t* indices,
                   int32_t* labels, int32_t* num_detections) = 0;

  const float* Boxes(OpKernelContext* ctx) const { return ctx->input(0).flat<float>().data(); }
  const float* Scores(OpKernelContext* ctx) const { return ctx->input(1).flat<float>().data(); }

  BatchedNmsAttributes attributes_;
};

class BatchedNmsCpuOp : public BatchedNmsOp {
 public:
  using BatchedNmsOp::BatchedNmsOp;

 protected:
  void Run(OpKernelContext* ctx, const BatchedNmsShape& shape, int32_t* indices, int32_t* labels,
           int32_t* num_detections) override {
    BatchedNmsCpu(Boxes(ctx), Scores(ctx), shape, attributes_, indices, labels, num_detections,
                  PoolFor(ctx));
  }
};

REGISTER_KERNEL_BUILDER(Name("Kvision>BatchedNms").Device(tensorflow::DEVICE_CPU), BatchedNmsCpuOp);

#ifdef KVISION_WITH_CUDA
class BatchedNmsCudaOp : public BatchedNmsOp {
 public:
  using BatchedNmsOp::BatchedNmsOp;

 protected:
  void Run(OpKernelContext* ctx, const BatchedNmsShape& shape, int32_t* indices, int32_t* labels,
           int32_t* num_detections) override {
    Tensor workspace;
    const auto bytes = static_cast<int64_t>(BatchedNmsCudaWorkspace(shape));
    OP_REQUIRES_OK(ctx, ctx->allocate_temp(tensorflow::DT_UINT8, {bytes}, &workspace));
    const char* error = BatchedNmsCuda(Boxes(ctx), Scores(ctx), shape, attributes_,
                                       workspace.flat<uint8_t>().data(), indices, labels,
                                       num_detections, StreamOf(ctx));
    OP_REQUIRES(ctx, error == nullptr, absl::InternalError(absl::StrCat("batched_nms: ", error)));
  }
};

REGISTER_KERNEL_BUILDER(Name("Kvision>BatchedNms").Device(tensorflow::DEVICE_GPU),
                        BatchedNmsCudaOp);
#endif

}  // namespace
}  // namespace kvision
