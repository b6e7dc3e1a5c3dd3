// Kvision>RoiAlign and its gradient as TensorFlow ops. Both take a list of levels; one map is a
// list of one.
#include <cstdint>
#include <vector>

#include "ops/roi_align/roi_align.h"
#include "tensorflow/box_type.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/cuda.h"
#include "tensorflow/op_shapes.h"
#include "tensorflow/parallel.h"
#include "tensorflow/types.h"

namespace kvision {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr char kName[] = "roi_align";
constexpr ShapeRule kOutputGradient = {"output_gradient", kRoiAlignOutput.axes};

// For the attributes of a kernel under construction and of a shape function alike.
template <typename Context>
absl::Status CheckAttributes(Context* context, int64_t* num_levels) {
  int64_t sampling_ratio;
  TF_RETURN_IF_ERROR(CheckBoxType(kName, context));
  TF_RETURN_IF_ERROR(context->GetAttr("num_levels", num_levels));
  TF_RETURN_IF_ERROR(context->GetAttr("sampling_ratio", &sampling_ratio));
  return StatusOf(CheckRoiAlign(*num_levels, sampling_ratio));
}

absl::Status RoiAlignShape(InferenceContext* c) {
  int64_t num_levels, output_height, output_width;
  TF_RETURN_IF_ERROR(CheckAttributes(c, &num_levels));
  TF_RETURN_IF_ERROR(c->GetAttr("output_height", &output_height));
  TF_RETURN_IF_ERROR(c->GetAttr("output_width", &output_width));
  TF_RETURN_IF_ERROR(StatusOf(CheckRoiAlignOutputSize(output_height, output_width)));
  Sizes sizes(kName);
  sizes.Set("num_levels", num_levels);
  sizes.Set("output_height", output_height);
  sizes.Set("output_width", output_width);
  TF_RETURN_IF_ERROR(MatchInputs(c, kRoiAlignGeometry, &sizes, static_cast<int>(num_levels)));
  for (int level = 0; level < num_levels; ++level) {
    TF_RETURN_IF_ERROR(MatchStatic(c, c->input(level), kRoiAlignFeatures, &sizes));
  }
  return SetOutputs(c, {kRoiAlignOutput}, sizes);
}

absl::Status RoiAlignGradShape(InferenceContext* c) {
  int64_t num_levels;
  TF_RETURN_IF_ERROR(CheckAttributes(c, &num_levels));
  Sizes sizes(kName);
  sizes.Set("num_levels", num_levels);
  TF_RETURN_IF_ERROR(MatchStatic(c, c->input(0), kOutputGradient, &sizes));
  TF_RETURN_IF_ERROR(MatchInputs(c, kRoiAlignGeometry, &sizes, 1));
  for (int level = 0; level < num_levels; ++level) {
    ShapeHandle shape;
    if (!c->MakeShapeFromShapeTensor(4 + level, &shape).ok() ||
        !c->WithRank(shape, 4, &shape).ok()) {
      return StatusOf(Complaint(
          kName, "each of `feature_shapes` must hold four sizes, none of them negative."));
    }
    TF_RETURN_IF_ERROR(MatchStatic(c, shape, kRoiAlignFeatures, &sizes));
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
    OP_REQUIRES_OK(ctx, CheckAttributes(ctx, &num_levels_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sampling_ratio", &sampling_ratio_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("aligned", &aligned_));
  }

 protected:
  using Element = KernelTypeOf<T>;
  using Box = RoiAlignBox<Element>;

  // Matches boxes, levels and scales, the inputs from `first` on.
  absl::Status MatchGeometry(OpKernelContext* ctx, int first, Sizes* sizes) const {
    sizes->Set("num_levels", num_levels_);
    TF_RETURN_IF_ERROR(MatchInputs(ctx, kRoiAlignGeometry, sizes, first));
    for (int64_t level = 0; level < num_levels_; ++level) {
      TF_RETURN_IF_ERROR(StatusOf(CheckRoiAlignScale(Scales(ctx, first)[level])));
    }
    return absl::OkStatus();
  }

  RoiAlignParameters Parameters(const Sizes& sizes) const {
    return {sizes["batch"],        sizes["num_boxes"], sizes["channels"], sizes["output_height"],
            sizes["output_width"], sampling_ratio_,    aligned_};
  }

  const Box* Boxes(OpKernelContext* ctx, int first) const {
    return ctx->input(first).flat<Box>().data();
  }
  const int32_t* BoxLevels(OpKernelContext* ctx, int first) const {
    return ctx->input(first + 1).flat<int32_t>().data();
  }
  const double* Scales(OpKernelContext* ctx, int first) const {
    return ctx->input(first + 2).flat<double>().data();
  }

  template <typename Data>
  static RoiAlignLevel<Data> MakeLevel(Data* data, const TensorShape& shape, double scale) {
    return {data, shape.dim_size(1), shape.dim_size(2), scale};
  }

  int64_t num_levels_;

 private:
  int64_t sampling_ratio_;
  bool aligned_;
};

template <typename T, bool kOnGpu>
class RoiAlignOp : public RoiAlignKernel<T> {
  using Base = RoiAlignKernel<T>;
  using typename Base::Element;

 public:
  explicit RoiAlignOp(OpKernelConstruction* ctx) : Base(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_height", &output_height_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("output_width", &output_width_));
    OP_REQUIRES_OK(ctx, StatusOf(CheckRoiAlignOutputSize(output_height_, output_width_)));
  }

  void Compute(OpKernelContext* ctx) override {
    const int first = static_cast<int>(this->num_levels_);
    OpInputList features;
    OP_REQUIRES_OK(ctx, ctx->input_list("features", &features));
    Sizes sizes(kName);
    sizes.Set("output_height", output_height_);
    sizes.Set("output_width", output_width_);
    OP_REQUIRES_OK(ctx, this->MatchGeometry(ctx, first, &sizes));
    std::vector<RoiAlignLevel<const Element>> levels;
    for (int level = 0; level < first; ++level) {
      const TensorShape& shape = features[level].shape();
      OP_REQUIRES_OK(ctx, MatchShape(shape, kRoiAlignFeatures, &sizes));
      levels.push_back(
          Base::MakeLevel(DataOf<T>(features[level]), shape, this->Scales(ctx, first)[level]));
    }
    Tensor* output;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, kRoiAlignOutput, sizes, &output));
    if (output->NumElements() == 0) return;
    const RoiAlignParameters parameters = this->Parameters(sizes);
    const Span<const RoiAlignLevel<const Element>> all = {levels.data(), first};
    if constexpr (kOnGpu) {
      OP_REQUIRES_OK(ctx, CudaStatus(kName, RoiAlignForwardCuda<Element>(
                                                parameters, all, this->Boxes(ctx, first),
                                                this->BoxLevels(ctx, first), DataOf<T>(output),
                                                StreamOf(ctx))));
    } else {
      RoiAlignForward<Element>(parameters, all, this->Boxes(ctx, first),
                               this->BoxLevels(ctx, first), DataOf<T>(output), PoolFor(ctx));
    }
  }

 private:
  int64_t output_height_, output_width_;
};

template <typename T, bool kOnGpu>
class RoiAlignGradOp : public RoiAlignKernel<T> {
  using Base = RoiAlignKernel<T>;
  using typename Base::Element;

 public:
  using Base::Base;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& output_gradient = ctx->input(0);
    OpInputList shapes;
    OP_REQUIRES_OK(ctx, ctx->input_list("feature_shapes", &shapes));
    Sizes sizes(kName);
    OP_REQUIRES_OK(ctx, MatchShape(output_gradient.shape(), kOutputGradient, &sizes));
    OP_REQUIRES_OK(ctx, this->MatchGeometry(ctx, 1, &sizes));
    const RoiAlignParameters parameters = this->Parameters(sizes);
    OP_REQUIRES_OK(
        ctx, StatusOf(CheckRoiAlignOutputSize(parameters.output_height, parameters.output_width)));
    OpOutputList gradients;
    OP_REQUIRES_OK(ctx, ctx->output_list("feature_gradients", &gradients));
    std::vector<RoiAlignLevel<Element>> levels;
    for (int64_t level = 0; level < this->num_levels_; ++level) {
      TensorShape shape;
      OP_REQUIRES(ctx,
                  shapes[level].dims() == 1 &&
                      TensorShape::BuildTensorShape(shapes[level].vec<int64_t>(), &shape).ok(),
                  StatusOf(Complaint(kName,
                                     "`feature_shapes` must be vectors without a negative size. "
                                     "Received: ",
                                     shapes[level].SummarizeValue(4), ".")));
      OP_REQUIRES_OK(ctx, MatchShape(shape, kRoiAlignFeatures, &sizes));
      Tensor* gradient;
      OP_REQUIRES_OK(ctx, gradients.allocate(level, shape, &gradient));
      levels.push_back(Base::MakeLevel(DataOf<T>(gradient), shape, this->Scales(ctx, 1)[level]));
    }
    const Span<const RoiAlignLevel<Element>> all = {levels.data(), this->num_levels_};
    if constexpr (kOnGpu) {
      Tensor workspace;
      OP_REQUIRES_OK(ctx,
                     AllocateWorkspace(ctx, RoiAlignBackwardCudaWorkspace(parameters), &workspace));
      OP_REQUIRES_OK(ctx, CudaStatus(kName, RoiAlignBackwardCuda<Element>(
                                                parameters, DataOf<T>(output_gradient),
                                                this->Boxes(ctx, 1), this->BoxLevels(ctx, 1), all,
                                                workspace.data(), StreamOf(ctx))));
    } else {
      RoiAlignBackward<Element>(parameters, DataOf<T>(output_gradient), this->Boxes(ctx, 1),
                                this->BoxLevels(ctx, 1), all, PoolFor(ctx));
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
