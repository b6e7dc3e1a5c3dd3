// match_boxes on NumPy arrays: the CPU kernel without TensorFlow.
#include "common/threads.h"
#include "ops/match_boxes/match_boxes.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

py::tuple MatchBoxesOnArrays(const Array<float>& boxes, const Array<bool>& valid,
                             const Array<bool>& crowd, const Array<float>& candidates,
                             float positive_threshold, float negative_threshold,
                             bool allow_low_quality, float crowd_overlap, int num_threads) {
  const MatchBoxesAttributes attributes{positive_threshold, negative_threshold, crowd_overlap,
                                        allow_low_quality};
  Sizes sizes("match_boxes");
  Require(CheckMatchBoxes(attributes));
  MatchArrays(kMatchBoxesInputs, &sizes, boxes, valid, crowd, candidates);
  auto matches = MakeArray<int32_t>(kMatchBoxesOutputs[0], sizes);
  auto status = MakeArray<int32_t>(kMatchBoxesOutputs[1], sizes);
  const MatchBoxesShape shape{sizes["batch"], sizes["num_candidates"], sizes["num_boxes"],
                              candidates.shape(0) != sizes["batch"]};
  MatchBoxesCpu(boxes.data(), valid.data(), crowd.data(), candidates.data(), shape, attributes,
                matches.mutable_data(), status.mutable_data(), ThreadsFor(num_threads));
  return py::make_tuple(matches, status);
}

const Binding binding([](py::module_& module) {
  module.def("match_boxes", &MatchBoxesOnArrays, py::arg("boxes"), py::arg("valid"),
             py::arg("crowd"), py::arg("candidates"), py::kw_only(), py::arg("positive_threshold"),
             py::arg("negative_threshold"), py::arg("allow_low_quality") = false,
             py::arg("crowd_overlap") = 0.7f, py::arg("num_threads") = 0);
});

}  // namespace
}  // namespace kvision
