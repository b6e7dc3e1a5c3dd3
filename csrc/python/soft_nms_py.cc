// soft_nms on NumPy arrays: the CPU kernel without TensorFlow.
#include <string>

#include "ops/soft_nms/soft_nms.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

py::tuple SoftNmsOnArrays(const Array<float>& boxes, const Array<float>& scores,
                          const Array<int32_t>& labels, const std::string& method, float sigma,
                          float iou_threshold, float score_threshold, int64_t max_output_size) {
  SoftNmsAttributes attributes{DecayMethod::kLinear, sigma, iou_threshold, score_threshold,
                               max_output_size};
  Require(ParseDecayMethod("soft_nms", method, &attributes.method));
  Require(CheckSoftNms(attributes));
  Sizes sizes("soft_nms");
  MatchArrays(kSoftNmsInputs, &sizes, boxes, scores, labels);
  Require(CheckNumBoxes("soft_nms", sizes["num_boxes"]));
  sizes.Set("size", SelectionSize(sizes["num_boxes"], max_output_size));
  auto indices = MakeArray<int32_t>(kSoftNmsOutputs[0], sizes);
  auto decayed_scores = MakeArray<float>(kSoftNmsOutputs[1], sizes);
  int32_t count;
  SoftNmsCpu(boxes.data(), scores.data(), labels.data(), sizes["num_boxes"], attributes,
             indices.mutable_data(), decayed_scores.mutable_data(), &count);
  return py::make_tuple(indices, decayed_scores, count);
}

const Binding binding([](py::module_& module) {
  module.def("soft_nms", &SoftNmsOnArrays, py::arg("boxes"), py::arg("scores"), py::arg("labels"),
             py::kw_only(), py::arg("method"), py::arg("sigma"), py::arg("iou_threshold"),
             py::arg("score_threshold"), py::arg("max_output_size") = -1);
});

}  // namespace
}  // namespace kvision
