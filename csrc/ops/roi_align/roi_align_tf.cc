// Kvision>RoiAlign and its gradient as TensorFlow ops. Both take a list of levels; one map is a
// list of one.
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/roi_align/roi_align.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/parallel.h"
#include "tensorflow/stream.h"
#include "tensorflow/types.h"

namespace kvision {
namespace {

using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Message form of the house: "roi_align: what is expected. Received: what came."
template <typename... Args>
absl::Status Refuse(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("roi_align: ", args...));
}

absl::Status CheckAttributes(DataType type, DataType box_type, int64_t num_levels,
                             int64_t sampling_ratio) {
  if ((type == tensorflow::DT_DOUBLE) != (box_type == tensorflow::DT_DOUBLE)) {
    return Refuse(
        "`boxes` must be float64 beside float64 features and float32 beside all others. Received: ",
        tensorflow::DataTypeString(box_type), " beside ", tensorflow::DataTypeString(type), ".");
  }
  if (num_levels > kRoiAlignMaxLevels) {
    return Refuse("at most ", kRoiAlignMaxLevels,
                  " feature levels are taken. Received: ", num_levels, ".");
  }
  if (sampling_ratio < 0 || sampling_ratio > kRoiAlignMaxSamplingRatio) {
    return Refuse("`sampling_ratio` must lie between 0 (adaptive) and ", kRoiAlignMaxSamplingRatio,
                  ". Received: ", sampling_ratio, ".");
  }
  return absl::OkStatus();
}

absl::Status CheckOutputSize(int64_t height, int64_t width) {
  if (height < 1 || width < 1) {
    return Refuse("`output_height` and `output_width` must be positive. Received: ", height,
                  " and ", width, ".");
  }
  return absl::OkStatus();
}

// What is static about boxes, levels and spatial_scales, the inputs from `first` on; their batch
// and number go to *batch and *num_boxes.
absl::Status CheckBoxShapes(InferenceContext* c, int first, int num_levels, DimensionHandle* batch,
                            DimensionHandle* num_boxes) {
  ShapeHandle boxes, levels, scales;
  DimensionHandle unused;
  if (!c->WithRank(c->input(first), 3, &boxes).ok() ||
      !c->WithValue(c->Dim(boxes, 2), 4, &unused).ok()) {
    return Refuse("`boxes` must have shape (batch, num_boxes, 4). Received: ",
                  c->DebugString(c->input(first)), ".");
  }
  if (!c->WithRank(c->input(first + 1), 2, &levels).ok() ||
      !c->Merge(c->Dim(boxes, 0), c->Dim(levels, 0), batch).ok() ||
      !c->Merge(c->Dim(boxes, 1), c->Dim(levels, 1), num_boxes).ok()) {
    return Refuse("`levels` must have shape (batch, num_boxes) of `boxes`. Received: ",
                  c->DebugString(c->input(first + 1)), " for ", c->DebugString(boxes), ".");
  }
  if (!c->WithRank(c->input(first + 2), 1, &scales).ok() ||
      !c->WithValue(c->Dim(scales, 0), num_levels, &unused).ok()) {
    return Refuse("`spatial_scales` must have one number a level. Received: ",
                  c->DebugString(c->input(first + 2)), " for ", num_levels, " levels.");
  }
  return absl::OkStatus();
}

absl::Status CheckStaticAttributes(InferenceContext* c, int64_t* num_levels) {
  DataType type, box_type;
  int64_t sampling_ratio;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &type));
  TF_RETURN_IF_ERROR(c->GetAttr("BoxT", &box_type));
  TF_RETURN_IF_ERROR(c->GetAttr("num_levels", num_levels));
  TF_RETURN_IF_ERROR(c->GetAttr("sampling_ratio", &sampling_ratio));
  return CheckAttributes(type, box_type, *num_levels, sampling_ratio);
}

absl::Status RoiAlignShape(InferenceContext* c) {
  int64_t num_levels, output_height, output_width;
  TF_RETURN_IF_ERROR(CheckStaticAttributes(c, &num_levels));
  TF_RETURN_IF_ERROR(c->GetAttr("output_height", &output_height));
  TF_RETURN_IF_ERROR(c->GetAttr("output_width", &output_width));
  TF_RETURN_IF_ERROR(CheckOutputSize(output_height, output_width));
  DimensionHandle batch, num_boxes, channels = c->UnknownDim();
  TF_RETURN_IF_ERROR(CheckBoxShapes(c, num_levels, num_levels, &batch, &num_boxes));
  for (int64_t level = 0; level < num_levels; ++level) {
    ShapeHandle features;
    if (!c->WithRank(c->input(level), 4, &features).ok()) {
      return Refuse("`features` must have shape (batch, height, width, channels). Received: ",
                    c->DebugString(c->input(level)), ".");
    }
    if (!c->Merge(batch, c->Dim(features, 0), &batch).ok() ||
        !c->Merge(channels, c->Dim(features, 3), &channels).ok()) {
      return Refuse(
          "all feature levels must have the batch size of `boxes` and the same channels. "
          "Received: ",
          c->DebugString(features), " for ", c->DebugString(c->input(num_levels)), ".");
    }
  }
  c->set_output(0, c->MakeShape({batch, num_boxes, c->MakeDim(output_height),
                                 c->MakeDim(output_width), channels}));
  return absl::OkStatus();
}

absl::Status RoiAlignGradShape(InferenceContext* c) {
  int64_t num_levels;
  TF_RETURN_IF_ERROR(CheckStaticAttributes(c, &num_levels));
  ShapeHandle output_gradient;
  if (!c->WithRank(c->input(0), 5, &output_gradient).ok()) {
    return Refuse("`output_gradient` must have rank 5. Received: ", c->DebugString(c->input(0)),
                  ".");
  }
  DimensionHandle batch, num_boxes;
  TF_RETURN_IF_ERROR(CheckBoxShapes(c, 1, num_levels, &batch, &num_boxes));
  for (int64_t level = 0; level < num_levels; ++level) {
    ShapeHandle shape;
    if (!c->MakeShapeFromShapeTensor(4 + level, &shape).ok() ||
        !c->WithRank(shape, 4, &shape).ok()) {
      return Refuse("each of `feature_shapes` must hold four sizes, none of them negative.");
    }
    c->set_output(level, shape);
  }
  return absl::OkStatus();
}

REGISTER_OP("Kvision>RoiAlign")
    .Input("features: num_levels * T")
    .Input("boxes: BoxT")
    .Input("levels: int32")
    .Input("spatial_scales: double")
    .Output("output: T")
    .Attr("num_levels: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("BoxT: {float, double}")
    .Attr("output_height: int")
    .Attr("output_width: int")
    .Attr("sampling_ratio: int = 0")
    .Attr("aligned: bool = true")
    .SetShapeFn(RoiAlignShape)
    .Doc(
        "Average of bilinear samples in the bins of each box, read from the level that `levels` "
        "names for it; zeros where it names none.");

REGISTER_OP("Kvision>RoiAlignGrad")
    .Input("output_gradient: T")
    .Input("boxes: BoxT")
    .Input("levels: int32")
    .Input("spatial_scales: double")
    .Input("feature_shapes: num_levels * int64")
    .Output("feature_gradients: num_levels * T")
    .Attr("num_levels: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("BoxT: {float, double}")
    .Attr("sampling_ratio: int = 0")
    .Attr("aligned: bool = true")
    .SetShapeFn(RoiAlignGradShape)
    .Doc("Gradient of RoiAlign with respect to its features.");

// What the forward and the gradient kernel share: the attributes, and the checks of boxes, levels
// and scales.
template <typename T>
class RoiAlignKernel : public OpKernel {
 public:
  explicit RoiAlignKernel(OpKernelConstruction* ctx) : OpKernel(ctx) {
    DataType type, box_type;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &type));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("BoxT", &box_type));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_levels", &num_levels_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sampling_ratio", &sampling_ratio_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("aligned", &aligned_));
    OP_REQUIRES_OK(ctx, CheckAttributes(type, box_type, num_levels_, sampling_ratio_));
  }

 protected:
  using Element = KernelTypeOf<T>;
  using Box = RoiAlignBox<Element>;

  // Fills the sizes that the boxes decide and checks them against `levels` and `spatial_scales`.
  absl::Status ReadBoxes(OpKernelContext* ctx, RoiAlignParameters* parameters) const {
    const Tensor *boxes, *levels, *scales;
    TF_RETURN_IF_ERROR(ctx->input("boxes", &boxes));
    TF_RETURN_IF_ERROR(ctx->input("levels", &levels));
    TF_RETURN_IF_ERROR(ctx->input("spatial_scales", &scales));
    if (boxes->dims() != 3 || boxes->dim_size(2) != 4) {
      return Refuse("`boxes` must have shape (batch, num_boxes, 4). Received: ",
                    boxes->shape().DebugString(), ".");
    }
    parameters->batch = boxes->dim_size(0);
    parameters->num_boxes = boxes->dim_size(1);
    parameters->sampling_ratio = sampling_ratio_;
    parameters->aligned = aligned_;
    if (levels->shape() != TensorShape({parameters->batch, parameters->num_boxes})) {
      return Refuse("`levels` must have shape (batch, num_boxes) of `boxes`. Received: ",
                    levels->shape().DebugString(), " for ", boxes->shape().DebugString(), ".");
    }
    if (scales->shape() != TensorShape({num_levels_})) {
      return Refuse("`spatial_scales` must have one number a level. Received: ",
                    scales->shape().DebugString(), " for ", num_levels_, " levels.");
    }
    for (int64_t level = 0; level < num_levels_; ++level) {
      const double scale = scales->vec<double>()(level);
      if (!(scale > 0) || !std::isfinite(scale)) {
        return Refuse("`spatial_scales` must be positive and finite. Received: ", scale, ".");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckLevel(const TensorShape& shape, const RoiAlignParameters& parameters,
                          int64_t channels) const {
    if (shape.dims() != 4) {
      return Refuse("`features` must have shape (batch, height, width, channels). Received: ",
                    shape.DebugString(), ".");
    }
    if (shape.dim_size(0) != parameters.batch || shape.dim_size(3) != channels) {
      return Refuse(
          "all feature levels must have the batch size of `boxes` and the same channels. "
          "Received: ",
          shape.DebugString(), " for batch size ", parameters.batch, " and ", channels,
          " channels.");
    }
    return absl::OkStatus();
  }

  template <typename Data>
  static RoiAlignLevel<Data> MakeLevel(Data* data, const TensorShape& shape, double scale) {
    return {data, shape.dim_size(1), shape.dim_size(2), scale};
  }

  static absl::Status FromCuda(int error) {
    if (error == 0) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("roi_align: the CUDA kernel could not be launched: error ", error, "."));
  }

  int64_t num_levels_, sampling_ratio_;
  bool aligned_;
};

template <typename T, bool kOnGpu>
class RoiAlignOp : public RoiAlignKernel<T> {
  using Base = RoiAlignKernel<T>;
  using typename Base::Box;
  using typename Base::Element;

 public:
  explicit RoiAlignOp(OpKernelConstruction* ctx) : Base(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_height", &output_height_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_width", &output_width_));
    OP_REQUIRES_OK(ctx, CheckOutputSize(output_height_, output_width_));
  }

  void Compute(OpKernelContext* ctx) override {
    OpInputList features;
    OP_REQUIRES_OK(ctx, ctx->input_list("features", &features));
    RoiAlignParameters parameters;
    OP_REQUIRES_OK(ctx, this->ReadBoxes(ctx, &parameters));
    parameters.output_height = output_height_;
    parameters.output_width = output_width_;
    const Tensor& scales = ctx->input(this->num_levels_ + 2);
    std::vector<RoiAlignLevel<const Element>> levels;
    for (int64_t level = 0; level < this->num_levels_; ++level) {
      const TensorShape& shape = features[level].shape();
      parameters.channels =
          shape.dims() == 4 && level == 0 ? shape.dim_size(3) : parameters.channels;
      OP_REQUIRES_OK(ctx, this->CheckLevel(shape, parameters, parameters.channels));
      levels.push_back(
          Base::MakeLevel(DataOf<T>(features[level]), shape, scales.vec<double>()(level)));
    }
    Tensor* output;
    TensorShape output_shape;
    OP_REQUIRES_OK(
        ctx, TensorShape::BuildTensorShape({parameters.batch, parameters.num_boxes, output_height_,
                                            output_width_, parameters.channels},
                                           &output_shape));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, output_shape, &output));
    if (output->NumElements() == 0) return;
    const Box* boxes = ctx->input(this->num_levels_).template flat<Box>().data();
    const int32_t* box_levels = ctx->input(this->num_levels_ + 1).template flat<int32_t>().data();
    const Span<const RoiAlignLevel<const Element>> all = {levels.data(), this->num_levels_};
    if constexpr (kOnGpu) {
      OP_REQUIRES_OK(
          ctx, Base::FromCuda(RoiAlignForwardCuda<Element>(parameters, all, boxes, box_levels,
                                                           DataOf<T>(output), StreamOf(ctx))));
    } else {
      RoiAlignForward<Element>(parameters, all, boxes, box_levels, DataOf<T>(output), PoolFor(ctx));
    }
  }

 private:
  int64_t output_height_, output_width_;
};

template <typename T, bool kOnGpu>
class RoiAlignGradOp : public RoiAlignKernel<T> {
  using Base = RoiAlignKernel<T>;
  using typename Base::Box;
  using typename Base::Element;

 public:
  using Base::Base;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& output_gradient = ctx->input(0);
    OpInputList shapes;
    OP_REQUIRES_OK(ctx, ctx->input_list("feature_shapes", &shapes));
    RoiAlignParameters parameters;
    OP_REQUIRES_OK(ctx, this->ReadBoxes(ctx, &parameters));
    OP_REQUIRES(ctx,
                output_gradient.dims() == 5 && output_gradient.dim_size(0) == parameters.batch &&
                    output_gradient.dim_size(1) == parameters.num_boxes,
                Refuse("`output_gradient` must have shape (batch, num_boxes, output_height, "
                       "output_width, channels). "
                       "Received: ",
                       output_gradient.shape().DebugString(), "."));
    parameters.output_height = output_gradient.dim_size(2);
    parameters.output_width = output_gradient.dim_size(3);
    parameters.channels = output_gradient.dim_size(4);
    OP_REQUIRES_OK(ctx, CheckOutputSize(parameters.output_height, parameters.output_width));
    OpOutputList gradients;
    OP_REQUIRES_OK(ctx, ctx->output_list("feature_gradients", &gradients));
    const Tensor& scales = ctx->input(3);
    std::vector<RoiAlignLevel<Element>> levels;
    for (int64_t level = 0; level < this->num_levels_; ++level) {
      OP_REQUIRES(ctx, shapes[level].dims() == 1,
                  Refuse("`feature_shapes` must be vectors. Received: ",
                         shapes[level].shape().DebugString(), "."));
      TensorShape shape;
      OP_REQUIRES(ctx, TensorShape::BuildTensorShape(shapes[level].vec<int64_t>(), &shape).ok(),
                  Refuse("`feature_shapes` must hold no negative size. Received: ",
                         shapes[level].SummarizeValue(4), "."));
      OP_REQUIRES_OK(ctx, this->CheckLevel(shape, parameters, parameters.channels));
      Tensor* gradient;
      OP_REQUIRES_OK(ctx, gradients.allocate(level, shape, &gradient));
      levels.push_back(Base::MakeLevel(DataOf<T>(gradient), shape, scales.vec<double>()(level)));
    }
    const Box* boxes = ctx->input(1).template flat<Box>().data();
    const int32_t* box_levels = ctx->input(2).template flat<int32_t>().data();
    const Span<const RoiAlignLevel<Element>> all = {levels.data(), this->num_levels_};
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(
          ctx, ctx->allocate_temp(tensorflow::DT_INT8, {RoiAlignBackwardCudaWorkspace(parameters)},
                                  &workspace));
      OP_REQUIRES_OK(ctx, Base::FromCuda(RoiAlignBackwardCuda<Element>(
                              parameters, DataOf<T>(output_gradient), boxes, box_levels, all,
                              workspace.data(), StreamOf(ctx))));
    } else {
      RoiAlignBackward<Element>(parameters, DataOf<T>(output_gradient), boxes, box_levels, all,
                                PoolFor(ctx));
    }
  }
};

#define KVISION_REGISTER(T)                                                               \
  REGISTER_KERNEL_BUILDER(                                                                \
      Name("Kvision>RoiAlign").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),     \
      RoiAlignOp<T, false>);                                                              \
  REGISTER_KERNEL_BUILDER(                                                                \
      Name("Kvision>RoiAlignGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      RoiAlignGradOp<T, false>);
KVISION_REGISTER(Eigen::half)
KVISION_REGISTER(Eigen::bfloat16)
KVISION_REGISTER(float)
KVISION_REGISTER(double)
#undef KVISION_REGISTER

#ifdef KVISION_WITH_CUDA
#define KVISION_REGISTER(T)                                   \
  REGISTER_KERNEL_BUILDER(Name("Kvision>RoiAlign")            \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("spatial_scales")   \
                              .TypeConstraint<T>("T"),        \
                          RoiAlignOp<T, true>);               \
  REGISTER_KERNEL_BUILDER(Name("Kvision>RoiAlignGrad")        \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("spatial_scales")   \
                              .HostMemory("feature_shapes")   \
                              .TypeConstraint<T>("T"),        \
                          RoiAlignGradOp<T, true>);
KVISION_REGISTER(Eigen::half)
KVISION_REGISTER(Eigen::bfloat16)
KVISION_REGISTER(float)
KVISION_REGISTER(double)
#undef KVISION_REGISTER
#endif

}  // namespace
}  // namespace kvision
