// Kvision>Nms: the TensorFlow op.
#include "ops/nms/nms.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
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
  return absl::InvalidArgumentError(absl::StrCat("nms: ", args...));
}

absl::Status InferShapes(InferenceContext* c) {
  ShapeHandle boxes, scores;
  DimensionHandle num_boxes, unused;
  if (!c->WithRank(c->input(0), 2, &boxes).ok() ||
      !c->WithValue(c->Dim(boxes, 1), 4, &unused).ok()) {
    return Refuse("`boxes` must have shape (num_boxes, 4). Received: ", c->DebugString(c->input(0)),
                  ".");
  }
  if (!c->WithRank(c->input(1), 1, &scores).ok()) {
    return Refuse("`scores` must have shape (num_boxes,). Received: ", c->DebugString(c->input(1)),
                  ".");
  }
  if (!c->Merge(c->Dim(boxes, 0), c->Dim(scores, 0), &num_boxes).ok()) {
    return Refuse("`boxes` and `scores` must have the same number of boxes. Received: ",
                  c->DebugString(boxes), " and ", c->DebugString(scores), ".");
  }
  int64_t max_output_size;
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &max_output_size));
  c->set_output(0,
                c->Vector(max_output_size == kNoMaximum ? num_boxes : c->MakeDim(max_output_size)));
  c->set_output(1, c->Scalar());
  return absl::OkStatus();
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

// What the CPU and the GPU kernel share: attributes, checks, outputs.
class NmsOp : public OpKernel {
 public:
  explicit NmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("iou_threshold", &attributes_.iou_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    const float iou_threshold = attributes_.iou_threshold;
    OP_REQUIRES(ctx, iou_threshold >= 0.0f && iou_threshold <= 1.0f,
                Refuse("`iou_threshold` must be in [0, 1]. Received: ", iou_threshold, "."));
    const int64_t size = attributes_.max_output_size;
    OP_REQUIRES(ctx, size == kNoMaximum || (size >= 1 && size <= INT32_MAX),
                Refuse("`max_output_size` must be positive, or -1 for none. "
                       "Received: ",
                       size, "."));
  }

  void Compute(OpKernelContext* ctx) override {
    const TensorShape& boxes = ctx->input(0).shape();
    const TensorShape& scores = ctx->input(1).shape();
    OP_REQUIRES(
        ctx, boxes.dims() == 2 && boxes.dim_size(1) == 4,
        Refuse("`boxes` must have shape (num_boxes, 4). Received: ", boxes.DebugString(), "."));
    OP_REQUIRES(
        ctx, scores.dims() == 1,
        Refuse("`scores` must have shape (num_boxes,). Received: ", scores.DebugString(), "."));
    OP_REQUIRES(ctx, boxes.dim_size(0) == scores.dim_size(0),
                Refuse("`boxes` and `scores` must have the same number of boxes. Received: ",
                       boxes.DebugString(), " and ", scores.DebugString(), "."));
    const int64_t num_boxes = boxes.dim_size(0);
    OP_REQUIRES(ctx, num_boxes <= INT32_MAX,
                Refuse("at most 2^31 - 1 boxes. Received: ", num_boxes, "."));
    Tensor* indices;
    Tensor* count;
    const int64_t size = NmsOutputSize(num_boxes, attributes_.max_output_size);
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {size}, &indices));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {}, &count));
    Run(ctx, num_boxes, indices->flat<int32_t>().data(), count->flat<int32_t>().data());
  }

 protected:
  virtual void Run(OpKernelContext* ctx, int64_t num_boxes, int32_t* indices, int32_t* count) = 0;

  const float* Boxes(OpKernelContext* ctx) const { return ctx->input(0).flat<float>().data(); }
  const float* Scores(OpKernelContext* ctx) const { return ctx->input(1).flat<float>().data(); }

  NmsAttributes attributes_;
};

class NmsCpuOp : public NmsOp {
 public:
  using NmsOp::NmsOp;

 protected:
  void Run(OpKernelContext* ctx, int64_t num_boxes, int32_t* indices, int32_t* count) override {
    NmsCpu(Boxes(ctx), Scores(ctx), num_boxes, attributes_, indices, count);
  }
};

REGISTER_KERNEL_BUILDER(Name("Kvision>Nms").Device(tensorflow::DEVICE_CPU), NmsCpuOp);

#ifdef KVISION_WITH_CUDA
class NmsCudaOp : public NmsOp {
 public:
  using NmsOp::NmsOp;

 protected:
  void Run(OpKernelContext* ctx, int64_t num_boxes, int32_t* indices, int32_t* count) override {
    Tensor workspace;
    const auto bytes = static_cast<int64_t>(NmsCudaWorkspace(num_boxes));
    OP_REQUIRES_OK(ctx, ctx->allocate_temp(tensorflow::DT_UINT8, {bytes}, &workspace));
    const char* error = NmsCuda(Boxes(ctx), Scores(ctx), num_boxes, attributes_,
                                workspace.flat<uint8_t>().data(), indices, count, StreamOf(ctx));
    OP_REQUIRES(ctx, error == nullptr, absl::InternalError(absl::StrCat("nms: ", error)));
  }
};

REGISTER_KERNEL_BUILDER(Name("Kvision>Nms").Device(tensorflow::DEVICE_GPU), NmsCudaOp);
#endif

}  // namespace
}  // namespace kvision
