// The type of boxes beside features, for ops that pool the region of a map below a box.
#pragma once

#include "common/shapes.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/op_shapes.h"

namespace kvision {

// For the attributes `T` and `BoxT` of a kernel under construction and of a shape function alike.
template <typename Context>
absl::Status CheckBoxType(const char* op, Context* context) {
  tensorflow::DataType type, box_type;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &type));
  TF_RETURN_IF_ERROR(context->GetAttr("BoxT", &box_type));
  if ((type == tensorflow::DT_DOUBLE) == (box_type == tensorflow::DT_DOUBLE)) {
    return absl::OkStatus();
  }
  return StatusOf(Complaint(
      op,
      "`boxes` must be float64 beside float64 features and float32 beside all others. Received: ",
      tensorflow::DataTypeString(box_type), " beside ", tensorflow::DataTypeString(type), "."));
}

}  // namespace kvision
