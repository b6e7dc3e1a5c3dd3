// How an op (common/op.h) looks in TensorFlow: its names, its dtypes, and which of its inputs are
// attributes that TensorFlow hands over as tensors in host memory. Those come last.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/op.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace kvision {

// "roi_align" -> "Kvision>RoiAlign"
inline std::string TensorFlowName(const Op& op) {
  std::string name = "Kvision>";
  bool upper = true;
  for (const char c : std::string_view(op.name)) {
    if (c != '_') name += upper ? static_cast<char>(c - 'a' + 'A') : c;
    upper = c == '_';
  }
  return name;
}

// The op must be one of ours.
inline const Op& OpNamedInTensorFlow(std::string_view name) {
  return *std::find_if(AllOps().begin(), AllOps().end(),
                       [&](const Op& op) { return TensorFlowName(op) == name; });
}

constexpr tensorflow::DataType kTensorFlowTypes[] = {tensorflow::DT_BOOL,  tensorflow::DT_INT32,
                                                     tensorflow::DT_HALF,  tensorflow::DT_BFLOAT16,
                                                     tensorflow::DT_FLOAT, tensorflow::DT_DOUBLE};

inline tensorflow::DataType TensorFlowType(DType dtype) {
  return kTensorFlowTypes[static_cast<int>(dtype)];
}

// An op is registered for these types alone.
inline DType DTypeOf(tensorflow::DataType type) {
  const auto* const found =
      std::find(std::begin(kTensorFlowTypes), std::end(kTensorFlowTypes), type);
  return static_cast<DType>(found - kTensorFlowTypes);
}

// The attributes that hold the types "T" and "box"; null where a rule has a type of its own.
inline const char* TypeAttribute(const TensorRule& rule) {
  const std::string_view dtype = rule.dtype;
  return dtype == "T" ? "T" : dtype == "box" ? "BoxT" : nullptr;
}

inline int NumHostInputs(const Op& op) {
  return static_cast<int>(std::count_if(op.attributes.begin(), op.attributes.end(),
                                        [](const AttributeRule& rule) { return rule.on_host(); }));
}

// The length of an op's lists, of a kernel under construction and of a shape function alike.
template <typename Context>
absl::Status ReadListLength(Context* context, const Op& op, int64_t* length) {
  *length = 1;
  return op.list() == nullptr ? absl::OkStatus() : context->GetAttr(op.list(), length);
}

// Of a kernel under construction and of a shape function alike: the attributes that are not host
// inputs.
template <typename Context>
absl::Status ReadAttributes(Context* context, const Op& op, Attributes* attributes) {
  const auto read = [&](size_t index, auto value) {
    const absl::Status status = context->GetAttr(op.attributes[index].name, &value);
    if (status.ok()) attributes->Set(index, std::move(value));
    return status;
  };
  absl::Status status;
  for (size_t i = 0; i < op.attributes.size() && status.ok(); ++i) {
    switch (op.attributes[i].kind) {
      case Kind::kBool:
        status = read(i, bool());
        break;
      case Kind::kInt:
        status = read(i, int64_t());
        break;
      case Kind::kFloat:
        status = read(i, float());
        break;
      case Kind::kString:
        status = read(i, std::string());
        break;
      case Kind::kDoubles:
      case Kind::kInts:
        break;
    }
  }
  return status;
}

// The value of a host input, which is registered for the one type that fits.
inline Value ReadHostInput(const AttributeRule& rule, const tensorflow::Tensor& tensor) {
  if (rule.kind == Kind::kDoubles) {
    const auto values = tensor.flat<double>();
    return std::vector<double>(values.data(), values.data() + values.size());
  }
  const auto values = tensor.flat<int64_t>();
  return std::vector<int64_t>(values.data(), values.data() + values.size());
}

// A complaint as a status; an empty one is OK.
inline absl::Status StatusOf(const std::string& complaint) {
  return complaint.empty() ? absl::OkStatus() : absl::InvalidArgumentError(complaint);
}

}  // namespace kvision
