// soft_nms and matrix_nms on NumPy arrays: the CPU kernels without TensorFlow.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "ops/matrix_nms/matrix_nms.h"
#include "ops/soft_nms/soft_nms.h"
#include "python/binding.h"
#include "python/parallel.h"

namespace kvision {
namespace {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// The boxes of one set, with labels of 0 where none are given, and room for the result.
struct Selection {
  Ints labels, indices;
  py::array_t<float> decayed;
  int32_t count = 0;

  Selection(const std::string& op, const Floats& boxes, const Floats& scores,
            const std::optional<Ints>& given_labels, int64_t max_output_size) {
    const auto require = [&op](bool condition, const char* message) {
      if (!condition) throw std::invalid_argument(op + ": " + message);
    };
    require(boxes.ndim() == 2 && boxes.shape(1) == 4, "`boxes` must have shape (num_boxes, 4).");
    const int64_t num_boxes = boxes.shape(0);
    require(scores.ndim() == 1 && scores.shape(0) == num_boxes,
            "`scores` must have shape (num_boxes,).");
    require(!given_labels || (given_labels->ndim() == 1 && given_labels->shape(0) == num_boxes),
            "`labels` must have shape (num_boxes,).");
    require(max_output_size == -1 || max_output_size >= 1,
            "`max_output_size` must be positive, or -1 for none.");
    labels = given_labels ? *given_labels : Ints(py::array_t<int32_t>(num_boxes));
    if (!given_labels) std::fill_n(labels.mutable_data(), num_boxes, 0);
    const int64_t size = SelectionSize(num_boxes, max_output_size);
    indices = Ints(size);
    decayed = py::array_t<float>(size);
  }

  py::tuple Result() const { return py::make_tuple(indices, decayed, count); }
};

DecayMethod MethodNamed(const std::string& op, const std::string& name) {
  if (name == "linear") return DecayMethod::kLinear;
  if (name == "gaussian") return DecayMethod::kGaussian;
  throw std::invalid_argument(op + ": `method` must be \"linear\" or \"gaussian\".");
}

py::tuple SoftNmsOnArrays(const Floats& boxes, const Floats& scores,
                          const std::optional<Ints>& labels, const std::string& method,
                          float sigma, float iou_threshold, float score_threshold,
                          int64_t max_output_size) {
  Selection result("soft_nms", boxes, scores, labels, max_output_size);
  SoftNmsCpu(boxes.data(), scores.data(), result.labels.data(), boxes.shape(0),
             {MethodNamed("soft_nms", method), sigma, iou_threshold, score_threshold,
              max_output_size},
             result.indices.mutable_data(), result.decayed.mutable_data(), &result.count);
  return result.Result();
}

py::tuple MatrixNmsOnArrays(const Floats& boxes, const Floats& scores,
                            const std::optional<Ints>& labels, const std::string& method,
                            float sigma, float score_threshold, int64_t max_output_size,
                            int num_threads) {
  Selection result("matrix_nms", boxes, scores, labels, max_output_size);
  MatrixNmsCpu(boxes.data(), scores.data(), result.labels.data(), boxes.shape(0),
               {MethodNamed("matrix_nms", method), sigma, score_threshold, max_output_size},
               result.indices.mutable_data(), result.decayed.mutable_data(), &result.count,
               ThreadsFor(num_threads));
  return result.Result();
}

const Binding binding([](py::module_& module) {
  module.def("soft_nms", &SoftNmsOnArrays, py::arg("boxes"), py::arg("scores"),
             py::arg("labels") = py::none(), py::kw_only(), py::arg("method") = "gaussian",
             py::arg("sigma") = 0.5f, py::arg("iou_threshold") = 0.3f,
             py::arg("score_threshold") = 0.001f, py::arg("max_output_size") = -1);
  module.def("matrix_nms", &MatrixNmsOnArrays, py::arg("boxes"), py::arg("scores"),
             py::arg("labels") = py::none(), py::kw_only(), py::arg("method") = "gaussian",
             py::arg("sigma") = 2.0f, py::arg("score_threshold") = 0.0f,
             py::arg("max_output_size") = -1, py::arg("num_threads") = 1);
});

}  // namespace
}  // namespace kvision
