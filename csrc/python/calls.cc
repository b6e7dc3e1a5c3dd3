#include "python/calls.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/op.h"
#include "common/threads.h"
#ifdef KVISION_WITH_FFI
#include "xla/ffi_handlers.h"
#endif

namespace kvision {
namespace {

namespace py = pybind11;

// Raises ValueError unless the complaint is empty.
void Require(const std::string& complaint) {
  if (!complaint.empty()) throw std::invalid_argument(complaint);
}

const Op& OpNamed(const std::string& name) {
  const Op* op = FindOp(name);
  if (op == nullptr) throw std::invalid_argument("kvision has no op named " + name + ".");
  return *op;
}

// Attributes -----------------------------------------------------------------------------------

py::object Fallback(const AttributeRule& rule) {
  if (rule.fallback == nullptr) return py::none();
  const std::string text = rule.fallback;
  switch (rule.kind) {
    case Kind::kBool:
      return py::bool_(text == "true");
    case Kind::kInt:
      return py::int_(std::stoll(text));
    case Kind::kFloat:
      return py::float_(std::strtod(text.c_str(), nullptr));
    default:
      return py::str(text);
  }
}

// A list of numbers, or one number for a list of one.
template <typename T>
Value CastList(const py::handle& value) {
  const auto array = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(value);
  if (!array) throw py::cast_error();
  return std::vector<T>(array.data(), array.data() + array.size());
}

Value Cast(const AttributeRule& rule, const py::handle& value) {
  switch (rule.kind) {
    case Kind::kBool:
      return value.cast<bool>();
    case Kind::kInt:
      return value.cast<int64_t>();
    case Kind::kFloat:
      return value.cast<float>();
    case Kind::kString:
      return value.cast<std::string>();
    case Kind::kDoubles:
      return CastList<double>(value);
    case Kind::kInts:
      return CastList<int64_t>(value);
  }
  return {};
}

// Takes the value of an attribute out of `given`.
Value Take(const Op& op, const AttributeRule& rule, py::dict given) {
  if (!given.contains(rule.name)) {
    if (rule.fallback != nullptr) return Cast(rule, Fallback(rule));
    throw py::type_error(Complaint(op.speaker, "`", rule.name, "` must be given."));
  }
  const py::object value = given.attr("pop")(rule.name);
  try {
    return Cast(rule, value);
  } catch (const py::cast_error&) {
    throw py::type_error(Complaint(op.speaker, "`", rule.name, "` has a wrong type: ",
                                   py::repr(value).cast<std::string>(), "."));
  }
}

Attributes TakeAttributes(const Op& op, const py::dict& given) {
  Attributes attributes(&op.attributes);
  for (size_t i = 0; i < op.attributes.size(); ++i) {
    attributes.Set(i, Take(op, op.attributes[i], given));
  }
  return attributes;
}

void RefuseRest(const Op& op, const py::dict& rest) {
  for (const auto& [name, value] : rest) {
    throw py::type_error(
        Complaint(op.speaker, "there is no argument `", name.cast<std::string>(), "`."));
  }
}

// What both doors do -----------------------------------------------------------------------------

struct Outputs {
  Signature signature;
  std::vector<TensorSpec> specs;
};

Outputs Infer(const Op& op, const std::vector<Tensor>& inputs, const Attributes& attributes) {
  Outputs outputs{Signature(op), {}};
  Require(outputs.signature.Infer(View(inputs), attributes, &outputs.specs));
  return outputs;
}

void Run(const Call& call) {
  Error error;
  {
    const py::gil_scoped_release release;
    error = call.Run();
  }
  if (!error) return;
  if (error.on_device) throw std::runtime_error(error.text);
  throw std::invalid_argument(error.text);
}

// NumPy ------------------------------------------------------------------------------------------

py::dtype NumpyType(DType dtype) { return py::dtype::from_args(py::str(NameOf(dtype))); }

// An array whose memory, where it is large, begins with a huge page: the system finds and clears
// 2 MiB at a time, not 4 KiB. NumPy asks for such pages as well, but begins where malloc does.
py::array NewArray(const TensorSpec& spec) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const py::dtype dtype = NumpyType(spec.dtype);
  size_t bytes = dtype.itemsize();
  for (const int64_t side : spec.shape) bytes *= side;
  if (bytes < 2 * kHugePage) return py::array(dtype, spec.shape);
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* const memory = std::aligned_alloc(kHugePage, bytes);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  const py::capsule owner(memory, [](void* data) { std::free(data); });
  return py::array(dtype, spec.shape, memory, owner);
}

// A contiguous array of that dtype, or of its own where an op takes several.
py::array ToArray(const Op& op, const TensorRule& rule, const py::handle& value,
                  std::optional<DType> dtype) {
  py::module_ numpy = py::module_::import("numpy");
  py::array array;
  try {
    array = numpy.attr("asarray")(value);
  } catch (py::error_already_set& error) {
    throw py::type_error(Complaint(op.speaker, "`", rule.name,
                                   "` is no array: ", py::str(error.value()).cast<std::string>()));
  }
  if (dtype) {
    const py::dtype wanted = NumpyType(*dtype);
    // Floats are no indices and numbers no masks.
    if (!numpy.attr("can_cast")(array.dtype(), wanted, "same_kind").cast<bool>()) {
      throw py::type_error(Complaint(op.speaker, "`", rule.name, "` must be ", NameOf(*dtype),
                                     ". Received: ", py::str(array.dtype()).cast<std::string>(),
                                     "."));
    }
    array = array.attr("astype")(wanted, py::arg("copy") = false);
  }
  return numpy.attr("require")(array, py::none(), "C");
}

Tensor ViewOf(const Op& op, const TensorRule& rule, const py::array& array) {
  const auto name = py::str(array.dtype()).cast<std::string>();
  const std::optional<DType> dtype = DTypeNamed(name);
  const bool own = std::string_view(rule.dtype) == "T";
  const auto is_name = [&](const char* allowed) { return name == allowed; };
  if (!dtype || (own && std::none_of(op.dtypes.begin(), op.dtypes.end(), is_name))) {
    throw py::type_error(Complaint(op.speaker, "`", rule.name, "` must be ",
                                   own ? Alternatives(op.dtypes) : rule.dtype, ". Received: ", name,
                                   "."));
  }
  return {*dtype, {array.shape(), array.ndim()}, const_cast<void*>(array.data())};
}

py::object CallOnArrays(const Op& op, const py::args& args, const py::kwargs& kwargs) {
  py::dict given = py::dict(**kwargs);
  const Attributes attributes = TakeAttributes(op, given);
  static constexpr AttributeRule kNumThreads = {"num_threads", Kind::kInt, "0"};
  const int64_t num_threads = std::get<int64_t>(Take(op, kNumThreads, given));
  if (args.size() > op.inputs.size()) {
    throw py::type_error(Complaint(op.speaker, op.inputs.size(),
                                   " tensors are taken. Received: ", args.size(), "."));
  }
  std::vector<py::array> arrays;
  std::vector<Tensor> inputs;
  std::optional<DType> own;  // T
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const TensorRule& rule = op.inputs[i];
    if (i >= args.size() && !given.contains(rule.name)) {
      throw py::type_error(Complaint(op.speaker, "`", rule.name, "` must be given."));
    }
    const py::object value = i < args.size() ? py::object(args[i]) : given.attr("pop")(rule.name);
    const std::string_view type = rule.dtype;
    std::optional<DType> dtype = own;
    if (type == "box") {
      dtype = own == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    } else if (type != "T") {
      dtype = DTypeNamed(type);
    }
    const auto append = [&](const py::handle& element) {
      arrays.push_back(ToArray(op, rule, element, dtype));
      inputs.push_back(ViewOf(op, rule, arrays.back()));
      if (type == "T" && !own) own = inputs.back().dtype;
    };
    if (rule.list == nullptr) {
      append(value);
    } else if (py::isinstance<py::sequence>(value)) {
      for (const py::handle element : value) append(element);
    } else {
      throw py::type_error(Complaint(op.speaker, "`", rule.name, "` must be a list of arrays."));
    }
  }
  RefuseRest(op, given);
  const Outputs inferred = Infer(op, inputs, attributes);
  py::list results;
  std::vector<Tensor> outputs;
  for (const TensorSpec& spec : inferred.specs) {
    py::array array = NewArray(spec);
    outputs.push_back({spec.dtype, View(spec.shape), array.mutable_data()});
    results.append(std::move(array));
  }
  const auto threads = ThreadsFor(num_threads);
  Run(Call(inferred.signature, attributes, View(inputs), View(outputs), Device::Cpu(threads)));
  const bool is_list = op.outputs[0].list != nullptr;
  if (op.outputs.size() == 1 && !is_list) return results[0];
  return is_list ? py::object(results) : py::object(py::tuple(results));
}

// Memory of somebody else ------------------------------------------------------------------------

using Described = std::vector<std::pair<std::string, Shape>>;            // dtype, shape
using Pointed = std::vector<std::tuple<uintptr_t, std::string, Shape>>;  // address, dtype, shape

DType DTypeOf(const Op& op, const std::string& name) {
  const std::optional<DType> dtype = DTypeNamed(name);
  if (!dtype) Require(Complaint(op.speaker, "no op takes the dtype ", name, "."));
  return *dtype;
}

std::vector<Tensor> ViewsOf(const Op& op, const Pointed& tensors) {
  std::vector<Tensor> views;
  for (const auto& [address, dtype, shape] : tensors) {
    views.push_back({DTypeOf(op, dtype), View(shape), reinterpret_cast<void*>(address)});
  }
  return views;
}

Described OutputSpecs(const std::string& name, const Described& inputs, const py::dict& given) {
  const Op& op = OpNamed(name);
  const Attributes attributes = TakeAttributes(op, given.attr("copy")());
  std::vector<Tensor> views;
  for (const auto& [dtype, shape] : inputs) views.push_back({DTypeOf(op, dtype), View(shape)});
  Described outputs;
  for (TensorSpec& spec : Infer(op, views, attributes).specs) {
    outputs.emplace_back(NameOf(spec.dtype), std::move(spec.shape));
  }
  return outputs;
}

void RunOnPointers(const std::string& name, const Pointed& inputs, const Pointed& outputs,
                   const py::dict& given, const std::optional<uintptr_t>& stream,
                   [[maybe_unused]] const std::optional<py::function>& allocate,
                   int64_t num_threads) {
  const Op& op = OpNamed(name);
  const Attributes attributes = TakeAttributes(op, given.attr("copy")());
  const std::vector<Tensor> input_views = ViewsOf(op, inputs), output_views = ViewsOf(op, outputs);
  const Outputs inferred = Infer(op, input_views, attributes);
  bool fits = inferred.specs.size() == outputs.size();
  for (size_t i = 0; fits && i < outputs.size(); ++i) {
    fits = inferred.specs[i].dtype == output_views[i].dtype &&
           inferred.specs[i].shape == std::get<2>(outputs[i]);
  }
  if (!fits) Require(Complaint(op.speaker, "the outputs have other shapes or dtypes."));
  const auto run = [&](const Device& device) {
    Run(Call(inferred.signature, attributes, View(input_views), View(output_views), device));
  };
  if (!stream) {
    const auto threads = ThreadsFor(num_threads);
    return run(Device::Cpu(threads));
  }
#ifdef KVISION_WITH_CUDA
  const auto allocate_there = [&](size_t bytes) -> void* {
    const py::gil_scoped_acquire acquire;
    return allocate ? reinterpret_cast<void*>((*allocate)(bytes).cast<uintptr_t>()) : nullptr;
  };
  run(Device::Cuda(reinterpret_cast<void*>(*stream), allocate_there));
#else
  throw std::runtime_error(Complaint(op.speaker, "the library was built without CUDA."));
#endif
}

// What there is ----------------------------------------------------------------------------------

py::list Describe(const std::vector<TensorRule>& rules) {
  py::list list;
  for (const TensorRule& rule : rules) {
    list.append(py::dict(py::arg("name") = rule.name, py::arg("dtype") = rule.dtype,
                         py::arg("axes") = rule.axes, py::arg("list") = rule.list,
                         py::arg("shape_from") = rule.shape_from));
  }
  return list;
}

py::list DescribeOps() {
  constexpr const char* kKinds[] = {"bool", "int", "float", "str", "list[float]", "list[int]"};
  py::list list;
  for (const Op& op : AllOps()) {
    py::list attributes;
    for (const AttributeRule& rule : op.attributes) {
      attributes.append(py::dict(
          py::arg("name") = rule.name, py::arg("type") = kKinds[static_cast<int>(rule.kind)],
          py::arg("axes") = rule.axes, py::arg("required") = rule.fallback == nullptr,
          py::arg("default") = Fallback(rule)));
    }
    list.append(py::dict(py::arg("name") = op.name, py::arg("doc") = op.doc,
                         py::arg("dtypes") = op.dtypes, py::arg("inputs") = Describe(op.inputs),
                         py::arg("outputs") = Describe(op.outputs),
                         py::arg("attributes") = attributes));
  }
  return list;
}

py::dict FfiCapsules() {
  py::dict all;
#ifdef KVISION_WITH_FFI
  for (size_t i = 0; i < AllOps().size(); ++i) {
    const FfiHandlers handlers = FfiHandlersOf(i);
    py::dict platforms;
    platforms["cpu"] = py::capsule(reinterpret_cast<void*>(handlers.host));
    if (handlers.cuda != nullptr) {
      platforms["CUDA"] = py::capsule(reinterpret_cast<void*>(handlers.cuda));
    }
    all[AllOps()[i].target().c_str()] = platforms;
  }
#endif
  return all;
}

// What `inspect.signature` reads, before the documentation.
std::string Documentation(const Op& op) {
  std::string text = std::string(op.name) + "(";
  for (const TensorRule& rule : op.inputs) text += std::string(rule.name) + ", ";
  text += "*, ";
  for (const AttributeRule& rule : op.attributes) {
    text += rule.name;
    if (rule.fallback != nullptr) {
      const py::object value = Fallback(rule);
      const bool infinite = std::string(rule.fallback) == "-inf";
      text += "=" + (infinite ? "-1e999" : py::repr(value).cast<std::string>());  // no literal
    }
    text += ", ";
  }
  return text + "num_threads=0)\n--\n\n" + op.doc;
}

}  // namespace

void DefineCalls(py::module_& module) {
  py::options options;
  options.disable_function_signatures();
  for (const Op& op : AllOps()) {
    module.attr(op.name) =
        py::cpp_function([&op](const py::args& args,
                               const py::kwargs& kwargs) { return CallOnArrays(op, args, kwargs); },
                         py::name(op.name), py::scope(module), py::doc(Documentation(op).c_str()));
  }
  options.enable_function_signatures();
  module.def("ops", &DescribeOps, "Every op: its tensors, its attributes and its documentation.");
  module.def("output_specs", &OutputSpecs, py::arg("op"), py::arg("inputs"), py::arg("attributes"),
             "The (dtype, shape) of every output of an op, from those of its inputs.");
  module.def("run", &RunOnPointers, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
             py::arg("attributes"), py::arg("stream") = py::none(),
             py::arg("allocate") = py::none(), py::arg("num_threads") = 0,
             "Runs an op on memory of somebody else: tensors are (address, dtype, shape), "
             "contiguous; with a stream, a cudaStream_t, on its device, where `allocate(bytes)` "
             "gives the address of memory that lives until the kernels have run.");
  module.def("ffi_handlers", &FfiCapsules,
             "The handlers of XLA's foreign function interface, by target and platform.");
}

}  // namespace kvision
