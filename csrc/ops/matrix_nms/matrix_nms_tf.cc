// Kvision>MatrixNms: the TensorFlow op.
#include "ops/matrix_nms/matrix_nms.h"
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
  Sizes sizes("matrix_nms");
  int64_t max_output_size;
  TF_RETURN_IF_ERROR(MatchInputs(c, kMatrixNmsInputs, &sizes));
  TF_RETURN_IF_ERROR(c->GetAttr("max_output_size", &max_output_size));
  sizes.Set("size", SelectionSize(sizes["num_boxes"], max_output_size));
  return SetOutputs(c, kMatrixNmsOutputs, sizes);
}

REGISTER_OP("Kvision>MatrixNms")
    .Input("boxes: float")
    .Input("scores: float")
    .Input("labels: int32")
    .Attr("method: string = 'gaussian'")
    .Attr("sigma: float = 2.0")
    .Attr("score_threshold: float = 0.0")
    .Attr("max_output_size: int >= -1 = -1")
    .Output("indices: int32")
    .Output("decayed_scores: float")
    .Output("count: int32")
    .SetShapeFn(InferShapes)
    .Doc(R"doc(
Matrix non-maximum suppression of one set of boxes.

boxes: (N, 4), x1 y1 x2 y2.
scores: (N,). Only scores greater than `score_threshold` are candidates; NaN and -inf never are.
labels: (N,). Boxes of different labels do not see each other.
method: "linear" or "gaussian": f(x) = 1 - x or exp(-sigma x^2) in the decay min f(IoU) / f(c).
sigma: of the Gaussian, positive.
score_threshold: decayed scores must be greater; -inf for none.
max_output_size: length of `indices`; -1 for N.
indices: boxes by descending decayed score, padded with -1.
decayed_scores: their decayed scores, padded with 0.
count: how many there are.
)doc");

template <bool kOnGpu>
class MatrixNmsOp : public OpKernel {
 public:
  explicit MatrixNmsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string method;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("method", &method));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sigma", &attributes_.sigma));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("score_threshold", &attributes_.score_threshold));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_output_size", &attributes_.max_output_size));
    OP_REQUIRES_OK(ctx, StatusOf(ParseDecayMethod("matrix_nms", method, &attributes_.method)));
    OP_REQUIRES_OK(ctx, StatusOf(CheckMatrixNms(attributes_)));
  }

  void Compute(OpKernelContext* ctx) override {
    Sizes sizes("matrix_nms");
    OP_REQUIRES_OK(ctx, MatchInputs(ctx, kMatrixNmsInputs, &sizes));
    const int64_t num_boxes = sizes["num_boxes"];
    OP_REQUIRES_OK(ctx, StatusOf(CheckNumBoxes("matrix_nms", num_boxes)));
    sizes.Set("size", SelectionSize(num_boxes, attributes_.max_output_size));
    Tensor* outputs[3];
    OP_REQUIRES_OK(
        ctx, AllocateOutputs(ctx, kMatrixNmsOutputs, sizes, &outputs[0], &outputs[1], &outputs[2]));
    const float* boxes = ctx->input(0).flat<float>().data();
    const float* scores = ctx->input(1).flat<float>().data();
    const int32_t* labels = ctx->input(2).flat<int32_t>().data();
    int32_t* indices = outputs[0]->flat<int32_t>().data();
    float* decayed_scores = outputs[1]->flat<float>().data();
    int32_t* count = outputs[2]->flat<int32_t>().data();
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, MatrixNmsCudaWorkspace(num_boxes), &workspace));
      OP_REQUIRES_OK(
          ctx, CudaStatus("matrix_nms", MatrixNmsCuda(boxes, scores, labels, num_boxes, attributes_,
                                                      workspace.data(), indices, decayed_scores,
                                                      count, StreamOf(ctx))));
    } else {
      MatrixNmsCpu(boxes, scores, labels, num_boxes, attributes_, indices, decayed_scores, count,
                   PoolFor(ctx));
    }
  }

 private:
  MatrixNmsAttributes attributes_;
};

REGISTER_KERNEL_BUILDER(Name("Kvision>MatrixNms").Device(tensorflow::DEVICE_CPU),
                        MatrixNmsOp<false>);
#ifdef KVISION_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("Kvision>MatrixNms").Device(tensorflow::DEVICE_GPU),
                        MatrixNmsOp<true>);
#endif

}  // namespace
}  // namespace kvision
