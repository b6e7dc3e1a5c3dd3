#include "xla/ffi_handlers.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "xla/ffi/api/ffi.h"

namespace kvision {
namespace {

namespace ffi = ::xla::ffi;

std::optional<DType> DTypeOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::PRED:
      return DType::kBool;
    case ffi::DataType::S32:
      return DType::kInt32;
    case ffi::DataType::F16:
      return DType::kFloat16;
    case ffi::DataType::BF16:
      return DType::kBFloat16;
    case ffi::DataType::F32:
      return DType::kFloat32;
    case ffi::DataType::F64:
      return DType::kFloat64;
    default:
      return std::nullopt;
  }
}

// Returns whether the buffer is of a type that ops take.
bool Append(const ffi::AnyBuffer& buffer, std::vector<Tensor>* tensors) {
  const std::optional<DType> dtype = DTypeOf(buffer.element_type());
  if (!dtype) return false;
  const auto shape = buffer.dimensions();
  tensors->push_back(
      {*dtype, {shape.begin(), static_cast<int64_t>(shape.size())}, buffer.untyped_data()});
  return true;
}

template <typename T>
Value Read(const ffi::Dictionary& dictionary, const char* name) {
  const auto value = dictionary.get<T>(name);
  if (!value.has_value()) return {};
  if constexpr (std::is_same_v<T, std::string_view>) {
    return std::string(*value);
  } else {
    return *value;
  }
}

template <typename T>
Value ReadList(const ffi::Dictionary& dictionary, const char* name) {
  const auto value = dictionary.get<ffi::Span<const T>>(name);
  if (!value.has_value()) return {};
  return std::vector<T>(value->begin(), value->end());
}

Value Read(const ffi::Dictionary& dictionary, const AttributeRule& rule) {
  switch (rule.kind) {
    case Kind::kBool:
      return Read<bool>(dictionary, rule.name);
    case Kind::kInt:
      return Read<int64_t>(dictionary, rule.name);
    case Kind::kFloat:
      return Read<float>(dictionary, rule.name);
    case Kind::kString:
      return Read<std::string_view>(dictionary, rule.name);
    case Kind::kDoubles:
      return ReadList<double>(dictionary, rule.name);
    case Kind::kInts:
      return ReadList<int64_t>(dictionary, rule.name);
  }
  return {};
}

ffi::Error Invalid(std::string text) { return ffi::Error::InvalidArgument(std::move(text)); }

ffi::Error RunOp(const Op& op, const ffi::RemainingArgs& args, const ffi::RemainingRets& rets,
                 const ffi::Dictionary& dictionary, const Device& device) {
  Attributes attributes(&op.attributes);
  for (size_t i = 0; i < op.attributes.size(); ++i) {
    Value value = Read(dictionary, op.attributes[i]);
    if (std::holds_alternative<std::monostate>(value)) {
      return Invalid(
          Complaint(op.speaker, "the attribute `", op.attributes[i].name, "` is missing."));
    }
    attributes.Set(i, std::move(value));
  }
  std::vector<Tensor> inputs, outputs;
  bool known = true;
  for (size_t i = 0; i < args.size(); ++i) known &= Append(*args.get<ffi::AnyBuffer>(i), &inputs);
  for (size_t i = 0; i < rets.size(); ++i) known &= Append(**rets.get<ffi::AnyBuffer>(i), &outputs);
  if (!known) return Invalid(Complaint(op.speaker, "a tensor has a dtype that no op takes."));

  Signature signature(op);
  std::vector<TensorSpec> specs;
  std::string wrong = signature.Infer(View(inputs), attributes, &specs);
  if (!wrong.empty()) return Invalid(std::move(wrong));
  bool fits = specs.size() == outputs.size();
  for (size_t i = 0; fits && i < specs.size(); ++i) {
    fits = specs[i].dtype == outputs[i].dtype &&
           specs[i].shape == Shape(outputs[i].shape.begin(), outputs[i].shape.end());
  }
  if (!fits) return Invalid(Complaint(op.speaker, "the results have other shapes or dtypes."));

  const Error error = Call(signature, attributes, View(inputs), View(outputs), device).Run();
  if (!error) return ffi::Error::Success();
  return error.on_device ? ffi::Error::Internal(error.text) : Invalid(error.text);
}

ffi::Error RunOnHost(const Op& op, ffi::ThreadPool pool, ffi::RemainingArgs args,
                     ffi::RemainingRets rets, ffi::Dictionary dictionary) {
  const int64_t pool_threads = pool.num_threads();
  const auto parallel_for = [&](int64_t total, int64_t cost, RangeBody body) {
    if (pool_threads > 0) {
      ShareRange(total, cost, body, pool_threads,
                 [&](auto task) { pool.Schedule(std::move(task)); });
    } else {
      ThreadsFor(0)(total, cost, body);
    }
  };
  return RunOp(op, args, rets, dictionary, Device::Cpu(parallel_for));
}

template <size_t kIndex>
XLA_FFI_Error* HandleOnHost(XLA_FFI_CallFrame* frame) {
  static const auto handler =
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs().To(
          [](ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
             ffi::Dictionary attributes) {
            return RunOnHost(AllOps()[kIndex], pool, args, rets, attributes);
          });
  return handler->Call(frame);
}

#ifdef KVISION_WITH_CUDA

// As aligned as memory from CUDA itself; XLA promises 16 bytes, and is asked for no more.
void* Aligned(ffi::ScratchAllocator& scratch, size_t bytes) {
  constexpr uintptr_t kAlignment = 256;
  const auto memory = scratch.Allocate(bytes + kAlignment - 16, 16);
  if (!memory) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(*memory);
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

template <size_t kIndex>
XLA_FFI_Error* HandleOnCuda(XLA_FFI_CallFrame* frame) {
  static const auto handler =
      ffi::Ffi::Bind()
          .Ctx<ffi::PlatformStream<void*>>()
          .Ctx<ffi::ScratchAllocator>()
          .RemainingArgs()
          .RemainingRets()
          .Attrs()
          .To([](void* stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs args,
                 ffi::RemainingRets rets, ffi::Dictionary attributes) {
            const auto allocate = [&](size_t bytes) { return Aligned(scratch, bytes); };
            return RunOp(AllOps()[kIndex], args, rets, attributes, Device::Cuda(stream, allocate));
          });
  return handler->Call(frame);
}

#endif

// A handler is a plain function, so that each op needs one of its own.
constexpr size_t kMaxOps = 64;

template <size_t... kIndices>
constexpr std::array<FfiHandlers, kMaxOps> MakeHandlers(std::index_sequence<kIndices...>) {
#ifdef KVISION_WITH_CUDA
  return {{{&HandleOnHost<kIndices>, &HandleOnCuda<kIndices>}...}};
#else
  return {{{&HandleOnHost<kIndices>, nullptr}...}};
#endif
}

}  // namespace

FfiHandlers FfiHandlersOf(size_t index) {
  static constexpr auto kHandlers = MakeHandlers(std::make_index_sequence<kMaxOps>());
  return kHandlers.at(index);
}

}  // namespace kvision
