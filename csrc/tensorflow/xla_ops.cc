// Every op for what TensorFlow compiles with XLA (`jit_compile=True`): a custom call of its FFI
// handler. A library of its own, beside that of the ops, because XLA is not in every TensorFlow
// that serves models.
#include <cstdio>
#include <string>
#include <vector>

#include "common/op.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/op_def.h"
#include "xla/ffi/api/ffi.h"
#include "xla/ffi_handlers.h"
#include "xla/hlo/builder/xla_builder.h"

// In libtensorflow_cc; its own header needs MLIR's, which TensorFlow does not bring.
namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();
}

namespace kvision {
namespace {

// Attributes as MLIR writes them ----------------------------------------------------------------

// The bits, because decimals would round and have no infinity.
template <typename Bits, typename Number>
std::string Hexadecimal(Number number) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%0*llX", static_cast<int>(2 * sizeof(Bits)),
                static_cast<unsigned long long>(BitCast<Bits>(number)));
  return text;
}

std::string Literal(double number) { return Hexadecimal<uint64_t>(number); }
std::string Literal(int64_t number) { return std::to_string(number); }

template <typename T>
std::string ArrayLiteral(const char* type, const std::vector<T>& values) {
  std::string text;
  for (const T& value : values) text += (text.empty() ? ": " : ", ") + Literal(value);
  return std::string("array<") + type + text + ">";
}

std::string Literal(const Value& value) {
  if (const auto* v = std::get_if<bool>(&value)) return *v ? "true" : "false";
  if (const auto* v = std::get_if<int64_t>(&value)) return Literal(*v) + " : i64";
  if (const auto* v = std::get_if<float>(&value)) return Hexadecimal<uint32_t>(*v) + " : f32";
  if (const auto* v = std::get_if<std::vector<double>>(&value)) return ArrayLiteral("f64", *v);
  if (const auto* v = std::get_if<std::vector<int64_t>>(&value)) return ArrayLiteral("i64", *v);
  std::string text = "\"";
  for (const char c : std::get<std::string>(value)) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + "\"";
}

std::string Dictionary(const Op& op, const Attributes& attributes) {
  std::string text;
  for (size_t i = 0; i < op.attributes.size(); ++i) {
    text +=
        (i == 0 ? "" : ", ") + std::string(op.attributes[i].name) + " = " + Literal(attributes[i]);
  }
  return "{" + text + "}";
}

// The kernel ------------------------------------------------------------------------------------

class CustomCallKernel : public tensorflow::XlaOpKernel {
 public:
  explicit CustomCallKernel(tensorflow::OpKernelConstruction* ctx)
      : XlaOpKernel(ctx), op_(OpNamedInTensorFlow(ctx->def().op())), attributes_(&op_.attributes) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, op_, &attributes_));
    OP_REQUIRES_OK(ctx, ReadListLength(ctx, op_, &list_length_));
  }

  void Compile(tensorflow::XlaOpKernelContext* ctx) override {
    const int num_tensors = ctx->num_inputs() - NumHostInputs(op_);
    std::vector<Shape> shapes;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      const auto shape = ctx->InputXlaShape(i);
      OP_REQUIRES_OK(ctx, shape.status());
      shapes.emplace_back(shape->dimensions().begin(), shape->dimensions().end());
    }
    std::vector<Tensor> inputs;
    std::vector<xla::XlaOp> operands;
    std::vector<xla::Shape> operand_shapes;
    for (int i = 0; i < num_tensors; ++i) {
      inputs.push_back({DTypeOf(ctx->input_type(i)), View(shapes[i])});
      operands.push_back(ctx->Input(i));
      operand_shapes.push_back(
          xla::ShapeUtil::MakeShapeWithDescendingLayout(ctx->input_xla_type(i), shapes[i]));
    }
    Attributes attributes = attributes_;
    int host_input = num_tensors;
    for (size_t i = 0; i < op_.attributes.size(); ++i) {
      if (!op_.attributes[i].on_host()) continue;
      const auto tensor = ctx->ConstantInputTensor(host_input++);
      OP_REQUIRES_OK(ctx, tensor.status());
      attributes.Set(i, ReadHostInput(op_.attributes[i], *tensor));
    }
    Signature signature(op_);
    if (op_.list() != nullptr) signature.SetListLength(list_length_);
    std::vector<TensorSpec> specs;
    OP_REQUIRES_OK(ctx, StatusOf(signature.Infer(View(inputs), attributes, &specs)));
    host_input = num_tensors;
    for (const AttributeRule& rule : op_.attributes) {
      if (!rule.on_host()) continue;
      OP_REQUIRES_OK(ctx, StatusOf(signature.MatchHost(rule, View(shapes[host_input++]))));
    }
    std::vector<xla::Shape> outputs;
    for (size_t i = 0; i < specs.size(); ++i) {
      outputs.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
          ctx->output_xla_type(static_cast<int>(i)), specs[i].shape));
    }
    const bool one = outputs.size() == 1;
    const xla::XlaOp call = xla::CustomCallWithLayout(
        ctx->builder(), op_.target(), operands,
        one ? outputs[0] : xla::ShapeUtil::MakeTupleShape(outputs), operand_shapes,
        Dictionary(op_, attributes), /*has_side_effect=*/false, /*output_operand_aliasing=*/{},
        /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      ctx->SetOutput(static_cast<int>(i), one ? call : xla::GetTupleElement(call, index));
    }
  }

 private:
  const Op& op_;
  Attributes attributes_;
  int64_t list_length_;
};

tensorflow::OpKernel* MakeKernel(tensorflow::OpKernelConstruction* ctx) {
  return new CustomCallKernel(ctx);
}

// TensorFlow turns what is registered for XLA into kernels of its compilation devices once, at the
// latest when its first op runs. For a library that is loaded later nobody does.
bool IsLate() {
  const tensorflow::KernelList kernels = tensorflow::GetRegisteredKernelsForOp("Neg");
  for (const auto& kernel : kernels.kernel()) {
    if (kernel.device_type() == tensorflow::DEVICE_CPU_XLA_JIT) return true;
  }
  return false;
}

void RegisterXlaKernel(const Op& op) {
  static const bool is_late = IsLate();
  auto builder = tensorflow::XlaOpRegistrationBuilder::Name(TensorFlowName(op));
  for (const AttributeRule& rule : op.attributes) {
    if (rule.on_host()) builder.CompileTimeConstantInput(rule.name);
  }
  tensorflow::XlaOpRegistrar(builder.Build(&MakeKernel));
  if (!is_late) return;
  for (const char* device : {tensorflow::DEVICE_CPU_XLA_JIT, tensorflow::DEVICE_GPU_XLA_JIT}) {
    tensorflow::kernel_factory::OpKernelRegistrar(
        tensorflow::KernelDefBuilder(TensorFlowName(op).c_str()).Device(device).Build(),
        "KvisionCustomCall", &MakeKernel);
  }
}

// While the library is loaded; that of the ops has been.
[[maybe_unused]] const bool registered = [] {
  const XLA_FFI_Api* const api = xla::ffi::GetXlaFfiApi();
  for (size_t i = 0; i < AllOps().size(); ++i) {
    const std::string target = AllOps()[i].target();
    const FfiHandlers handlers = FfiHandlersOf(i);
    xla::ffi::Ffi::RegisterStaticHandler(api, target, "Host", handlers.host);
    if (handlers.cuda != nullptr) {
      xla::ffi::Ffi::RegisterStaticHandler(api, target, "CUDA", handlers.cuda);
    }
  }
  ForEveryOp(&RegisterXlaKernel);
  return true;
}();

}  // namespace
}  // namespace kvision
