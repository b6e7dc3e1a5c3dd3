// An op's ShapeRules (common/shapes.h) in TensorFlow: in its shape function and in its kernels.
#pragma once

#include <string>
#include <vector>

#include "common/shapes.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace kvision {

// A complaint as a status; an empty one is OK.
inline absl::Status StatusOf(const std::string& complaint) {
  return complaint.empty() ? absl::OkStatus() : absl::InvalidArgumentError(complaint);
}

// Static shapes --------------------------------------------------------------------------------

inline absl::Status MatchStatic(tensorflow::shape_inference::InferenceContext* c,
                                tensorflow::shape_inference::ShapeHandle shape,
                                const ShapeRule& rule, Sizes* sizes) {
  if (!c->RankKnown(shape)) return absl::OkStatus();
  std::vector<int64_t> known;
  for (int axis = 0; axis < c->Rank(shape); ++axis) {
    known.push_back(c->ValueKnown(c->Dim(shape, axis)) ? c->Value(c->Dim(shape, axis))
                                                       : kUnknownSize);
  }
  return StatusOf(sizes->Match(rule, {known.data(), static_cast<int64_t>(known.size())}));
}

// Inputs from `first` on, one a rule.
template <size_t kNumber>
absl::Status MatchInputs(tensorflow::shape_inference::InferenceContext* c,
                         const ShapeRule (&rules)[kNumber], Sizes* sizes, int first = 0) {
  for (const ShapeRule& rule : rules) {
    TF_RETURN_IF_ERROR(MatchStatic(c, c->input(first++), rule, sizes));
  }
  return absl::OkStatus();
}

template <size_t kNumber>
absl::Status SetOutputs(tensorflow::shape_inference::InferenceContext* c,
                        const ShapeRule (&rules)[kNumber], const Sizes& sizes) {
  for (size_t output = 0; output < kNumber; ++output) {
    std::vector<tensorflow::shape_inference::DimensionHandle> axes;
    for (const int64_t size : sizes.Shape(rules[output])) {
      axes.push_back(size == kUnknownSize ? c->UnknownDim() : c->MakeDim(size));
    }
    c->set_output(static_cast<int>(output), c->MakeShape(axes));
  }
  return absl::OkStatus();
}

// Shapes of a running op -----------------------------------------------------------------------

inline absl::Status MatchShape(const tensorflow::TensorShape& shape, const ShapeRule& rule,
                               Sizes* sizes) {
  const auto dims = shape.dim_sizes();
  return StatusOf(sizes->Match(rule, {dims.data(), static_cast<int64_t>(dims.size())}));
}

template <size_t kNumber>
absl::Status MatchInputs(tensorflow::OpKernelContext* ctx, const ShapeRule (&rules)[kNumber],
                         Sizes* sizes, int first = 0) {
  for (const ShapeRule& rule : rules) {
    TF_RETURN_IF_ERROR(MatchShape(ctx->input(first++).shape(), rule, sizes));
  }
  return absl::OkStatus();
}

inline absl::Status AllocateOutput(tensorflow::OpKernelContext* ctx, int output,
                                   const ShapeRule& rule, const Sizes& sizes,
                                   tensorflow::Tensor** tensor) {
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(sizes.Shape(rule), &shape));
  return ctx->allocate_output(output, shape, tensor);
}

// The outputs from 0 on, one a rule.
template <size_t kNumber, typename... Tensors>
absl::Status AllocateOutputs(tensorflow::OpKernelContext* ctx, const ShapeRule (&rules)[kNumber],
                             const Sizes& sizes, Tensors**... tensors) {
  static_assert(sizeof...(tensors) == kNumber, "one tensor an output");
  int output = 0;
  absl::Status status;
  ((status.Update(AllocateOutput(ctx, output, rules[output], sizes, tensors)), ++output), ...);
  return status;
}

}  // namespace kvision
