// Every op as a TensorFlow op, with its shape function and its kernels for CPU and GPU.
#include <algorithm>
#include <string>
#include <vector>

#include "common/op.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/op_def.h"
#include "xla/stream_executor/stream.h"

namespace kvision {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The op ---------------------------------------------------------------------------------------

std::string Declaration(const TensorRule& rule) {
  std::string text = std::string(rule.name) + ": ";
  if (rule.list != nullptr) text += std::string(rule.list) + " * ";
  const char* const type = TypeAttribute(rule);
  return text + (type == nullptr
                     ? tensorflow::DataTypeString(TensorFlowType(*DTypeNamed(rule.dtype)))
                     : type);
}

std::string Declaration(const AttributeRule& rule) {
  constexpr const char* kKinds[] = {"bool", "int", "float", "string", "double", "int64"};
  std::string text = std::string(rule.name) + ": " + kKinds[static_cast<int>(rule.kind)];
  if (rule.fallback == nullptr || rule.on_host()) return text;
  const char* const quote = rule.kind == Kind::kString ? "'" : "";
  return text + " = " + quote + rule.fallback + quote;
}

Shape KnownSizes(InferenceContext* c, ShapeHandle shape) {
  Shape sizes;
  for (int axis = 0; axis < c->Rank(shape); ++axis) {
    const DimensionHandle size = c->Dim(shape, axis);
    sizes.push_back(c->ValueKnown(size) ? c->Value(size) : kUnknownSize);
  }
  return sizes;
}

absl::Status InferShapes(const Op& op, InferenceContext* c) {
  Attributes attributes(&op.attributes);
  TF_RETURN_IF_ERROR(ReadAttributes(c, op, &attributes));
  std::vector<Shape> shapes;
  for (int i = 0; i < c->num_inputs(); ++i) {
    shapes.push_back(c->RankKnown(c->input(i)) ? KnownSizes(c, c->input(i)) : Shape());
  }
  const auto view = [&](int i) {
    return c->RankKnown(c->input(i)) ? View(shapes[i]) : kUnknownShape;
  };
  const int num_tensors = c->num_inputs() - NumHostInputs(op);
  int64_t list_length;
  TF_RETURN_IF_ERROR(ReadListLength(c, op, &list_length));
  std::vector<Tensor> inputs;
  for (const TensorRule& rule : op.inputs) {
    tensorflow::DataType type;
    if (TypeAttribute(rule) != nullptr) {
      TF_RETURN_IF_ERROR(c->GetAttr(TypeAttribute(rule), &type));
    } else {
      type = TensorFlowType(*DTypeNamed(rule.dtype));
    }
    for (int64_t i = 0; i < (rule.list == nullptr ? 1 : list_length); ++i) {
      inputs.push_back({DTypeOf(type), view(static_cast<int>(inputs.size()))});
    }
  }
  Signature signature(op);
  if (op.list() != nullptr) signature.SetListLength(list_length);
  int host_input = num_tensors;
  for (size_t i = 0; i < op.attributes.size(); ++i) {
    if (!op.attributes[i].on_host()) continue;
    if (const tensorflow::Tensor* tensor = c->input_tensor(host_input++)) {
      attributes.Set(i, ReadHostInput(op.attributes[i], *tensor));
    }
  }
  std::vector<TensorSpec> outputs;
  TF_RETURN_IF_ERROR(StatusOf(signature.Infer(View(inputs), attributes, &outputs)));
  host_input = num_tensors;
  for (const AttributeRule& rule : op.attributes) {
    if (!rule.on_host()) continue;
    TF_RETURN_IF_ERROR(StatusOf(signature.MatchHost(rule, view(host_input++))));
  }
  for (size_t output = 0; output < outputs.size(); ++output) {
    std::vector<DimensionHandle> axes;
    for (const int64_t size : outputs[output].shape) {
      axes.push_back(size == kUnknownSize ? c->UnknownDim() : c->MakeDim(size));
    }
    c->set_output(static_cast<int>(output), c->MakeShape(axes));
  }
  return absl::OkStatus();
}

void RegisterOp(const Op& op) {
  tensorflow::register_op::OpDefBuilderWrapper builder(TensorFlowName(op).c_str());
  bool has_boxes = false;
  for (const TensorRule& rule : op.inputs) {
    builder.Input(Declaration(rule));
    has_boxes |= std::string_view(rule.dtype) == "box";
  }
  for (const TensorRule& rule : op.outputs) builder.Output(Declaration(rule));
  for (const AttributeRule& rule : op.attributes) {
    rule.on_host() ? builder.Input(Declaration(rule)) : builder.Attr(Declaration(rule));
  }
  if (op.list() != nullptr) builder.Attr(std::string(op.list()) + ": int >= 1");
  if (has_boxes) builder.Attr("BoxT: {float, double}");
  if (!op.dtypes.empty()) {
    std::string types;
    for (const char* dtype : op.dtypes) {
      types += (types.empty() ? "" : ", ") +
               tensorflow::DataTypeString(TensorFlowType(*DTypeNamed(dtype)));
    }
    builder.Attr("T: {" + types + "}");
  }
  builder.SetShapeFn([&op](InferenceContext* c) { return InferShapes(op, c); });
  builder.Doc(op.doc);
  builder();
}

// Its kernels ----------------------------------------------------------------------------------

template <bool kOnGpu>
class Kernel : public OpKernel {
 public:
  explicit Kernel(OpKernelConstruction* ctx)
      : OpKernel(ctx),
        op_(OpNamedInTensorFlow(ctx->def().op())),
        num_host_inputs_(NumHostInputs(op_)),
        attributes_(&op_.attributes) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, op_, &attributes_));
    OP_REQUIRES_OK(ctx, ReadListLength(ctx, op_, &list_length_));
  }

  void Compute(OpKernelContext* ctx) override {
    if (num_host_inputs_ == 0) return Run(ctx, attributes_);
    Attributes attributes = attributes_;
    int host_input = ctx->num_inputs() - num_host_inputs_;
    for (size_t i = 0; i < op_.attributes.size(); ++i) {
      if (!op_.attributes[i].on_host()) continue;
      attributes.Set(i, ReadHostInput(op_.attributes[i], ctx->input(host_input++)));
    }
    Run(ctx, attributes);
  }

 private:
  void Run(OpKernelContext* ctx, const Attributes& attributes) const {
    std::vector<Shape> shapes;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      const auto sizes = ctx->input(i).shape().dim_sizes();
      shapes.emplace_back(sizes.begin(), sizes.end());
    }
    int host_input = ctx->num_inputs() - num_host_inputs_;
    std::vector<Tensor> inputs;
    for (int i = 0; i < host_input; ++i) {
      inputs.push_back({DTypeOf(ctx->input_dtype(i)), View(shapes[i]), ctx->input(i).data()});
    }
    Signature signature(op_);
    if (op_.list() != nullptr) signature.SetListLength(list_length_);
    std::vector<TensorSpec> specs;
    OP_REQUIRES_OK(ctx, StatusOf(signature.Infer(View(inputs), attributes, &specs)));
    for (const AttributeRule& rule : op_.attributes) {
      if (!rule.on_host()) continue;
      OP_REQUIRES_OK(ctx, StatusOf(signature.MatchHost(rule, View(shapes[host_input++]))));
    }
    std::vector<Tensor> outputs;
    for (const TensorSpec& spec : specs) {
      TensorShape shape;
      tensorflow::Tensor* tensor;
      OP_REQUIRES_OK(ctx, TensorShape::BuildTensorShape(spec.shape, &shape));
      OP_REQUIRES_OK(ctx, ctx->allocate_output(static_cast<int>(outputs.size()), shape, &tensor));
      outputs.push_back({spec.dtype, View(spec.shape), tensor->data()});
    }
    const Error error = OnDevice(ctx, [&](const Device& device) {
      return Call(signature, attributes, View(inputs), View(outputs), device).Run();
    });
    if (!error) return;
    ctx->SetStatus(error.on_device ? absl::InternalError(error.text)
                                   : absl::InvalidArgumentError(error.text));
  }

  template <typename Run>
  static Error OnDevice(OpKernelContext* ctx, Run&& run) {
    if constexpr (kOnGpu) {
      tensorflow::Tensor workspace;
      const auto allocate = [&](size_t bytes) -> void* {
        const TensorShape shape({static_cast<int64_t>(bytes)});
        const auto status = ctx->allocate_temp(tensorflow::DT_UINT8, shape, &workspace);
        return status.ok() ? workspace.data() : nullptr;
      };
      void* const stream = ctx->op_device_context()->stream()->platform_specific_handle().stream;
      return run(Device::Cuda(stream, allocate));
    } else {
      auto* const pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
      const auto parallel_for = [pool](int64_t total, int64_t cost, RangeBody body) {
        pool->ParallelFor(total, tensorflow::thread::ThreadPool::SchedulingParams::Adaptive(cost),
                          [&body](int64_t begin, int64_t end) { body(begin, end); });
      };
      return run(Device::Cpu(parallel_for));
    }
  }

  const Op& op_;
  const int num_host_inputs_;
  Attributes attributes_;
  int64_t list_length_;
};

template <bool kOnGpu>
void RegisterKernel(const Op& op) {
  tensorflow::KernelDefBuilder builder(TensorFlowName(op).c_str());
  builder.Device(kOnGpu ? tensorflow::DEVICE_GPU : tensorflow::DEVICE_CPU);
  for (const AttributeRule& rule : op.attributes) {
    if (kOnGpu && rule.on_host()) builder.HostMemory(rule.name);
  }
  tensorflow::kernel_factory::OpKernelRegistrar(
      builder.Build(), TensorFlowName(op),
      [](OpKernelConstruction* ctx) -> OpKernel* { return new Kernel<kOnGpu>(ctx); });
}

// While the library is loaded.
[[maybe_unused]] const bool registered = [] {
  ForEveryOp(&RegisterOp);
  ForEveryOp(&RegisterKernel<false>);
#ifdef KVISION_WITH_CUDA
  ForEveryOp(&RegisterKernel<true>);
#endif
  return true;
}();

}  // namespace
}  // namespace kvision
