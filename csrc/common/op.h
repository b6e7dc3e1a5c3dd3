// An op, described once: its tensors, its attributes, and what runs it. Everything that can call
// an op is made from this description, in one file for all ops: TensorFlow (csrc/tensorflow), XLA
// and JAX (csrc/xla), NumPy and PyTorch (csrc/python).
//
//   Op Nms() {
//     Op op("nms", "Greedy non-maximum suppression of one set of boxes. ...");
//     op.inputs = {{"boxes", "float32", "num_boxes 4"}, {"scores", "float32", "num_boxes"}};
//     op.outputs = {{"indices", "int32", "max_output_size|num_boxes"}, {"count", "int32", ""}};
//     op.attributes = {{"iou_threshold", Kind::kFloat}, {"max_output_size", Kind::kInt, "-1"}};
//     op.check = &Check;
//     op.run = &Run;
//     return op;
//   }
//   const RegisteredOp nms(Nms());
//
// ops/nms/nms_op.cc is the smallest one, with its Check and Run; ops/roi_pool/roi_pool_op.cc has a
// gradient, which is an op of its own.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "common/export.h"
#include "common/half.h"
#include "common/parallel.h"
#include "common/shapes.h"
#include "common/span.h"

namespace kvision {

// Tensors --------------------------------------------------------------------------------------

enum class DType { kBool, kInt32, kFloat16, kBFloat16, kFloat32, kFloat64 };

constexpr const char* kDTypeNames[] = {"bool",     "int32",   "float16",
                                       "bfloat16", "float32", "float64"};

inline const char* NameOf(DType dtype) { return kDTypeNames[static_cast<int>(dtype)]; }

inline std::optional<DType> DTypeNamed(std::string_view name) {
  for (int i = 0; i < 6; ++i) {
    if (name == kDTypeNames[i]) return static_cast<DType>(i);
  }
  return std::nullopt;
}

inline int64_t SizeOf(DType dtype) {
  constexpr int64_t kSizes[] = {1, 4, 2, 2, 4, 8};
  return kSizes[static_cast<int>(dtype)];
}

// A tensor of somebody else's, row-major. Sizes may be unknown while shapes are inferred.
struct Tensor {
  DType dtype;
  Span<const int64_t> shape;
  void* data = nullptr;

  int64_t NumElements() const {
    int64_t number = 1;
    for (const int64_t size : shape) number *= size;
    return number;
  }
};

// Attributes -----------------------------------------------------------------------------------

enum class Kind {
  kBool,
  kInt,
  kFloat,
  kString,
  // Doubles, which TensorFlow's attributes cannot hold, and sizes, which a graph may not know when
  // it is made: known to the host before the op runs. TensorFlow passes them as tensors in host
  // memory, all others as attributes. `axes` is their shape.
  kDoubles,
  kInts,
};

using Value = std::variant<std::monostate, bool, int64_t, float, std::string, std::vector<double>,
                           std::vector<int64_t>>;

struct AttributeRule {
  const char* name;
  Kind kind;
  const char* fallback = nullptr;  // the default as text; null where a value must be given
  const char* axes = "";           // of kDoubles and kInts

  bool on_host() const { return kind == Kind::kDoubles || kind == Kind::kInts; }
};

// The values of a call, in the order of the op's rules. Of those that TensorFlow passes as tensors
// a shape function may not have one yet.
class Attributes {
 public:
  explicit Attributes(const std::vector<AttributeRule>* rules)
      : rules_(rules), values_(rules->size()) {}

  void Set(size_t index, Value value) { values_[index] = std::move(value); }
  const Value& operator[](size_t index) const { return values_[index]; }

  // Whether the op has it and its value is known. The others want an attribute for which it does.
  bool Has(const char* name) const {
    const size_t index = IndexOf(name);
    return index < values_.size() && !std::holds_alternative<std::monostate>(values_[index]);
  }
  bool Bool(const char* name) const { return std::get<bool>(values_[IndexOf(name)]); }
  int64_t Int(const char* name) const { return std::get<int64_t>(values_[IndexOf(name)]); }
  float Float(const char* name) const { return std::get<float>(values_[IndexOf(name)]); }
  const std::string& String(const char* name) const {
    return std::get<std::string>(values_[IndexOf(name)]);
  }
  const std::vector<double>& Doubles(const char* name) const {
    return std::get<std::vector<double>>(values_[IndexOf(name)]);
  }
  const std::vector<int64_t>& Ints(const char* name) const {
    return std::get<std::vector<int64_t>>(values_[IndexOf(name)]);
  }

 private:
  size_t IndexOf(const char* name) const {
    size_t index = 0;
    while (index < rules_->size() && std::strcmp((*rules_)[index].name, name) != 0) ++index;
    return index;
  }

  const std::vector<AttributeRule>* rules_;
  std::vector<Value> values_;
};

// A size that an attribute gives or, in an op without it such as a gradient, a tensor.
inline int64_t SizeOr(const Attributes& attributes, const Sizes& sizes, const char* name,
                      int64_t while_unknown) {
  if (attributes.Has(name)) return attributes.Int(name);
  return sizes[name] == kUnknownSize ? while_unknown : sizes[name];
}

// Ops ------------------------------------------------------------------------------------------

struct TensorRule {
  const char* name;
  const char* dtype;  // a name, "T" for the op's own, or "box": double if T is, else float
  const char* axes;   // in the words of common/shapes.h; of an output, "max_output_size|num_boxes"
                      // is the attribute of that name or, where that is negative, num_boxes. Where
                      // every tensor leads with "batch", its elements are independent: JAX's vmap
                      // folds what it maps into them
  const char* list = nullptr;        // the name of its length, where it is a list of tensors
  const char* shape_from = nullptr;  // of an output: the kInts that hold its shape
};

// What went wrong, in the words of the house. `on_device` where it is not the caller's fault.
struct Error {
  std::string text;
  bool on_device = false;

  explicit operator bool() const { return !text.empty(); }
};

class Call;

struct Op {
  Op(const char* name, const char* doc) : name(name), doc(doc), speaker(name) {}

  const char* name;  // "roi_align": Kvision>RoiAlign, kvision_roi_align
  const char* doc;
  const char* speaker;              // who speaks in its errors: another op, of a gradient
  std::vector<const char*> dtypes;  // what T may be
  std::vector<TensorRule> inputs, outputs;
  std::vector<AttributeRule> attributes;
  // What is wrong with the attributes and the sizes, or nothing. A shape function asks too: sizes
  // may be kUnknownSize then, and attributes that are host inputs missing (`Has`).
  std::string (*check)(const Attributes& attributes, const Sizes& sizes) = nullptr;
  Error (*run)(const Call& call) = nullptr;

  // The name of the length of its lists of tensors, or null.
  const char* list() const {
    for (const auto* rules : {&inputs, &outputs}) {
      for (const TensorRule& rule : *rules) {
        if (rule.list != nullptr) return rule.list;
      }
    }
    return nullptr;
  }

  std::string target() const { return std::string("kvision_") + name; }
};

// "float32 or float64".
KVISION_EXPORT std::string Alternatives(const std::vector<const char*>& names);

struct KVISION_EXPORT RegisteredOp {
  explicit RegisteredOp(Op op);
};

// Every op that is registered so far. They stay where they are.
KVISION_EXPORT const std::deque<Op>& AllOps();
// Null where there is none.
KVISION_EXPORT const Op* FindOp(std::string_view name);
// Calls `visit` for every op that there is or will be: static objects have no order among files.
KVISION_EXPORT void ForEveryOp(void (*visit)(const Op& op));

// Calls ----------------------------------------------------------------------------------------

using Shape = std::vector<int64_t>;

// A shape nothing of which is known, not even the rank.
constexpr Span<const int64_t> kUnknownShape = {nullptr, -1};

// Where a call runs. It refers to the callables that it is made of.
struct Device {
  // With these threads.
  static Device Cpu(ParallelFor parallel_for) {
    static constexpr auto kNoMemory = [](size_t) -> void* { return nullptr; };
    return {false, nullptr, kNoMemory, parallel_for};
  }
  // On a stream (a cudaStream_t); `allocate` gives device memory that lives as long as the call,
  // or null.
  static Device Cuda(void* stream, FunctionRef<void*(size_t bytes)> allocate) {
    static constexpr auto kSerially = [](int64_t total, int64_t, RangeBody body) {
      body(0, total);
    };
    return {true, stream, allocate, kSerially};
  }

  bool on_cuda;
  void* stream;
  FunctionRef<void*(size_t bytes)> allocate;
  ParallelFor parallel_for;
};

inline Span<const int64_t> View(const Shape& shape) {
  return {shape.data(), static_cast<int64_t>(shape.size())};
}

inline Span<const Tensor> View(const std::vector<Tensor>& tensors) {
  return {tensors.data(), static_cast<int64_t>(tensors.size())};
}

struct TensorSpec {
  DType dtype;
  Shape shape;
};

// What is known of a call before it runs: its tensors held to the op's rules. Lists of tensors lie
// one after the other, as the rules order them.
class KVISION_EXPORT Signature {
 public:
  explicit Signature(const Op& op) : op_(op), sizes_(op.speaker) {}

  // Learns from the inputs and the attributes, and tells the outputs; sizes that are unknown are
  // kUnknownSize. Returns what is wrong, or nothing.
  std::string Infer(Span<const Tensor> inputs, const Attributes& attributes,
                    std::vector<TensorSpec>* outputs);

  // The length of the lists, for callers that know it before they know the tensors.
  void SetListLength(int64_t length) { sizes_.Set(op_.list(), length); }

  // What is wrong with the shape in which somebody passes numbers that are known to the host.
  std::string MatchHost(const AttributeRule& rule, Span<const int64_t> shape) {
    return shape.size == kUnknownShape.size ? "" : sizes_.Match({rule.name, rule.axes}, shape);
  }

  const Op& op() const { return op_; }
  const Sizes& sizes() const { return sizes_; }
  DType dtype() const { return dtype_.value_or(DType::kFloat32); }
  // How many tensors a rule stands for.
  int64_t Number(const TensorRule& rule) const {
    return rule.list == nullptr ? 1 : sizes_[rule.list];
  }

 private:
  std::string MatchAttributes(const Attributes& attributes);
  std::string MatchInputs(Span<const Tensor> inputs);
  std::string MatchDType(const TensorRule& rule, DType dtype);
  std::string InferOutputs(const Attributes& attributes, std::vector<TensorSpec>* outputs) const;
  DType DTypeOf(const TensorRule& rule) const;

  const Op& op_;
  Sizes sizes_;
  std::optional<DType> dtype_;  // T
};

// One call of an op: what `run` is given. Nothing about it is wrong any more.
class Call {
 public:
  Call(const Signature& signature, const Attributes& attributes, Span<const Tensor> inputs,
       Span<const Tensor> outputs, const Device& device)
      : attributes(attributes),
        sizes(signature.sizes()),
        device(device),
        signature_(signature),
        inputs_(inputs),
        outputs_(outputs) {}

  const Attributes& attributes;
  const Sizes& sizes;
  const Device& device;

  // The tensors of the rule of that name.
  Span<const Tensor> Inputs(const char* name) const {
    return Find(signature_.op().inputs, inputs_, name);
  }
  Span<const Tensor> Outputs(const char* name) const {
    return Find(signature_.op().outputs, outputs_, name);
  }

  template <typename T>
  const T* In(const char* name) const {
    return static_cast<const T*>(Inputs(name)[0].data);
  }
  template <typename T>
  T* Out(const char* name) const {
    return static_cast<T*>(Outputs(name)[0].data);
  }

  // What an op throws, for want of memory say, becomes an error, on whichever thread it is thrown:
  // none of the callers expects an exception, and the threads of none survive one.
  KVISION_EXPORT Error Run() const;

  bool HasNoOutput() const {
    for (const Tensor& output : outputs_) {
      if (output.NumElements() > 0) return false;
    }
    return true;
  }

  // Calls body(T()) with the call's T as a C++ type.
  template <typename... Types, typename Body>
  Error For(Body&& body) const;

  // `launch(workspace)` with device memory of that size; it returns null or what CUDA says.
  template <typename Launch>
  Error OnCuda(size_t workspace_bytes, Launch&& launch) const {
    void* workspace = nullptr;
    if (workspace_bytes > 0) {
      workspace = device.allocate(workspace_bytes);
      if (workspace == nullptr) {
        return Wrong("no device memory for ", workspace_bytes, " bytes of workspace.");
      }
    }
    const char* const error = launch(workspace);
    return error == nullptr ? Error{} : Wrong(error);
  }

 private:
  template <typename... Parts>
  Error Wrong(const Parts&... parts) const {
    return {Complaint(signature_.op().speaker, parts...), true};
  }

  Span<const Tensor> Find(const std::vector<TensorRule>& rules, Span<const Tensor> tensors,
                          const char* name) const {
    int64_t first = 0;
    for (const TensorRule& rule : rules) {
      const int64_t number = signature_.Number(rule);
      if (std::strcmp(rule.name, name) == 0) return {tensors.begin() + first, number};
      first += number;
    }
    return {nullptr, 0};
  }

  const Signature& signature_;
  Span<const Tensor> inputs_, outputs_;
};

template <typename T>
constexpr DType DTypeFor() {
  if constexpr (std::is_same_v<T, Half>) return DType::kFloat16;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  if constexpr (std::is_same_v<T, double>) return DType::kFloat64;
  return DType::kFloat32;
}

template <typename... Types, typename Body>
Error Call::For(Body&& body) const {
  Error error;
  ((signature_.dtype() == DTypeFor<Types>() ? (error = body(Types()), 0) : 0), ...);
  return error;
}

}  // namespace kvision
