#include "common/op.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>

#include "common/float_mode.h"

namespace kvision {
namespace {

struct Registry {
  std::deque<Op> ops;
  std::vector<void (*)(const Op&)> visitors;
};

Registry& TheRegistry() {
  static Registry registry;
  return registry;
}

int64_t NumAxes(std::string_view axes) {
  return axes.empty() ? 0 : 1 + std::count(axes.begin(), axes.end(), ' ');
}

// The shape of a flat list of numbers that is written as "num_levels 4", "num_levels" or "".
Shape ShapeOf(const AttributeRule& rule, int64_t number) {
  const std::string_view axes = rule.axes;
  if (axes.empty() && number == 1) return {};
  if (NumAxes(axes) < 2) return {number};
  const int64_t columns = std::stoll(std::string(axes.substr(axes.rfind(' ') + 1)));
  return number % columns == 0 ? Shape{number / columns, columns} : Shape{number};
}

// The first exception of the threads that share a range, to be thrown again by their caller.
class FirstException {
 public:
  template <typename Body>
  void Guard(Body&& body) {
    try {
      body();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (first_ == nullptr) first_ = std::current_exception();
    }
  }

  void Rethrow() const {
    if (first_ != nullptr) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace

std::string Alternatives(const std::vector<const char*>& names) {
  std::string text;
  for (const char* name : names) {
    if (!text.empty()) text += name == names.back() ? " or " : ", ";
    text += name;
  }
  return text;
}

RegisteredOp::RegisteredOp(Op op) {
  Registry& registry = TheRegistry();
  registry.ops.push_back(std::move(op));
  for (const auto visit : registry.visitors) visit(registry.ops.back());
}

const std::deque<Op>& AllOps() { return TheRegistry().ops; }

const Op* FindOp(std::string_view name) {
  for (const Op& op : AllOps()) {
    if (op.name == name) return &op;
  }
  return nullptr;
}

void ForEveryOp(void (*visit)(const Op& op)) {
  for (const Op& op : AllOps()) visit(op);
  TheRegistry().visitors.push_back(visit);
}

std::string Signature::Infer(Span<const Tensor> inputs, const Attributes& attributes,
                             std::vector<TensorSpec>* outputs) {
  std::string wrong = MatchInputs(inputs);
  if (wrong.empty()) wrong = MatchAttributes(attributes);
  if (wrong.empty() && op_.check != nullptr) wrong = op_.check(attributes, sizes_);
  if (wrong.empty()) wrong = InferOutputs(attributes, outputs);
  return wrong;
}

std::string Signature::MatchInputs(Span<const Tensor> inputs) {
  const int64_t number = static_cast<int64_t>(op_.inputs.size());
  const bool has_list = std::any_of(op_.inputs.begin(), op_.inputs.end(),
                                    [](const TensorRule& rule) { return rule.list != nullptr; });
  if (has_list ? inputs.size < number - 1 : inputs.size != number) {
    return Complaint(op_.speaker, number, " tensors are taken. Received: ", inputs.size, ".");
  }
  if (has_list) SetListLength(inputs.size - number + 1);
  const Tensor* input = inputs.begin();
  for (const TensorRule& rule : op_.inputs) {
    for (int64_t i = 0; i < Number(rule); ++i, ++input) {
      std::string wrong = MatchDType(rule, input->dtype);
      if (wrong.empty() && input->shape.size == kUnknownShape.size) {
        const Shape unknown(NumAxes(rule.axes), kUnknownSize);
        wrong = sizes_.Match({rule.name, rule.axes}, View(unknown));
      } else if (wrong.empty()) {
        wrong = sizes_.Match({rule.name, rule.axes}, input->shape);
      }
      if (!wrong.empty()) return wrong;
    }
    const std::string wrong = sizes_.MatchSum({rule.name, rule.axes});
    if (!wrong.empty()) return wrong;
  }
  return {};
}

std::string Signature::MatchDType(const TensorRule& rule, DType dtype) {
  const std::string_view wanted = rule.dtype;
  if (wanted == "T" && !dtype_) {
    for (const char* allowed : op_.dtypes) {
      if (std::string_view(NameOf(dtype)) == allowed) dtype_ = dtype;
    }
    if (dtype_) return {};
    return Complaint(op_.speaker, "`", rule.name, "` must be ", Alternatives(op_.dtypes),
                     ". Received: ", NameOf(dtype), ".");
  }
  if (dtype == DTypeOf(rule)) return {};
  if (wanted == "box") {
    return Complaint(op_.speaker, "`", rule.name,
                     "` must be float64 beside float64 features and float32 beside all others. "
                     "Received: ",
                     NameOf(dtype), " beside ", NameOf(*dtype_), ".");
  }
  return Complaint(op_.speaker, "`", rule.name, "` must be ", NameOf(DTypeOf(rule)),
                   ". Received: ", NameOf(dtype), ".");
}

DType Signature::DTypeOf(const TensorRule& rule) const {
  const std::string_view name = rule.dtype;
  if (name == "T") return dtype();
  if (name == "box") return dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  return *DTypeNamed(name);
}

std::string Signature::MatchAttributes(const Attributes& attributes) {
  for (const AttributeRule& rule : op_.attributes) {
    if (!attributes.Has(rule.name)) continue;
    if (rule.kind == Kind::kInt) {
      if (attributes.Int(rule.name) >= 0) sizes_.Set(rule.name, attributes.Int(rule.name));
    } else if (rule.on_host()) {
      const size_t number = rule.kind == Kind::kDoubles ? attributes.Doubles(rule.name).size()
                                                        : attributes.Ints(rule.name).size();
      const Shape shape = ShapeOf(rule, static_cast<int64_t>(number));
      const std::string wrong = MatchHost(rule, View(shape));
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

std::string Signature::InferOutputs(const Attributes& attributes,
                                    std::vector<TensorSpec>* outputs) const {
  outputs->clear();
  for (const TensorRule& rule : op_.outputs) {
    const bool given = rule.shape_from != nullptr && attributes.Has(rule.shape_from);
    Sizes sizes = sizes_;
    for (int64_t i = 0; i < Number(rule); ++i) {
      const ShapeRule shape_rule = {rule.name, rule.axes};
      if (!given) {
        outputs->push_back({DTypeOf(rule), sizes_.Shape(shape_rule)});
        continue;
      }
      const int64_t rank = NumAxes(rule.axes);
      const int64_t* const shape = attributes.Ints(rule.shape_from).data() + i * rank;
      if (std::any_of(shape, shape + rank, [](int64_t size) { return size < 0; })) {
        return Complaint(op_.speaker, "`", rule.shape_from,
                         "` must hold no negative size. Received: ", Sizes::Words({shape, rank}),
                         ".");
      }
      const std::string wrong = sizes.Match(shape_rule, {shape, rank});
      if (!wrong.empty()) return wrong;
      outputs->push_back({DTypeOf(rule), Shape(shape, shape + rank)});
    }
    const std::string wrong = given ? sizes.MatchSum({rule.name, rule.axes}) : "";
    if (!wrong.empty()) return wrong;
  }
  return {};
}

Error Call::Run() const {
  const auto& run = signature_.op().run;
  try {
    if (device.on_cuda) return run(*this);
    const DefaultFloatMode mode;
    const auto parallel_for = [&](int64_t total, int64_t cost, RangeBody body) {
      FirstException exception;
      device.parallel_for(total, cost, [&](int64_t begin, int64_t end) {
        const DefaultFloatMode mode_of_thread;
        exception.Guard([&] { body(begin, end); });
      });
      exception.Rethrow();
    };
    const Device cpu = Device::Cpu(parallel_for);
    return run(Call(signature_, attributes, inputs_, outputs_, cpu));
  } catch (const std::bad_alloc&) {
    return Wrong("there is not enough memory for its workspace.");
  } catch (const std::exception& exception) {
    return Wrong(exception.what());
  }
}

}  // namespace kvision
