// matrix_nms on NumPy arrays: the CPU kernel without TensorFlow.
#include <string>

#include "common/threads.h"
#include "ops/matrix_nms/matrix_nms.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

py::tuple MatrixNmsOnArrays(const Array<float>& boxes, const Array<float>& scores,
                            const Array<int32_t>& labels, const std::string& method, float sigma,
                            float score_threshold, int64_t max_output_size, int num_threads) {
  MatrixNmsAttributes attributes{DecayMethod::kLinear, sigma, score_threshold, max_output_size};
  Require(ParseDecayMethod("matrix_nms", method, &attributes.method));
  Require(CheckMatrixNms(attributes));
  Sizes sizes("matrix_nms");
  MatchArrays(kMatrixNmsInputs, &sizes, boxes, scores, labels);
  Require(CheckNumBoxes("matrix_nms", sizes["num_boxes"]));
  sizes.Set("size", SelectionSize(sizes["num_boxes"], max_output_size));
  auto indices = MakeArray<int32_t>(kMatrixNmsOutputs[0], sizes);
  auto decayed_scores = MakeArray<float>(kMatrixNmsOutputs[1], sizes);
  int32_t count;
  MatrixNmsCpu(boxes.data(), scores.data(), labels.data(), sizes["num_boxes"], attributes,
               indices.mutable_data(), decayed_scores.mutable_data(), &count,
               ThreadsFor(num_threads));
  return py::make_tuple(indices, decayed_scores, count);
}

const Binding binding([](py::module_& module) {
  module.def("matrix_nms", &MatrixNmsOnArrays, py::arg("boxes"), py::arg("scores"),
             py::arg("labels"), py::kw_only(), py::arg("method"), py::arg("sigma"),
             py::arg("score_threshold"), py::arg("max_output_size") = -1,
             py::arg("num_threads") = 1);
});

}  // namespace
}  // namespace kvision
