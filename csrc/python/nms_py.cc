// nms and batched_nms on NumPy arrays: the CPU kernels without TensorFlow.
#include <cmath>

#include "common/threads.h"
#include "ops/batched_nms/batched_nms.h"
#include "ops/nms/nms.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

py::tuple NmsOnArrays(const Array<float>& boxes, const Array<float>& scores, float iou_threshold,
                      float score_threshold, int64_t max_output_size) {
  const NmsAttributes attributes{iou_threshold, score_threshold, max_output_size};
  Sizes sizes("nms");
  Require(CheckNms(attributes));
  MatchArrays(kNmsInputs, &sizes, boxes, scores);
  sizes.Set("size", NmsOutputSize(sizes["num_boxes"], max_output_size));
  auto indices = MakeArray<int32_t>(kNmsOutputs[0], sizes);
  int32_t count;
  NmsCpu(boxes.data(), scores.data(), sizes["num_boxes"], attributes, indices.mutable_data(),
         &count);
  return py::make_tuple(indices, count);
}

py::tuple BatchedNmsOnArrays(const Array<float>& boxes, const Array<float>& scores,
                             float iou_threshold, float score_threshold, int64_t max_output_size,
                             int64_t max_output_size_per_class, int num_threads) {
  const BatchedNmsAttributes attributes{iou_threshold, score_threshold, max_output_size,
                                        max_output_size_per_class};
  Sizes sizes("batched_nms");
  Require(CheckBatchedNms(attributes));
  MatchArrays(kBatchedNmsInputs, &sizes, boxes, scores);
  sizes.Set("size", max_output_size);
  auto indices = MakeArray<int32_t>(kBatchedNmsOutputs[0], sizes);
  auto labels = MakeArray<int32_t>(kBatchedNmsOutputs[1], sizes);
  auto num_detections = MakeArray<int32_t>(kBatchedNmsOutputs[2], sizes);
  BatchedNmsCpu(boxes.data(), scores.data(),
                {sizes["batch"], sizes["num_boxes"], sizes["num_classes"], boxes.shape(2) == 1},
                attributes, indices.mutable_data(), labels.mutable_data(),
                num_detections.mutable_data(), ThreadsFor(num_threads));
  return py::make_tuple(indices, labels, num_detections);
}

const Binding binding([](py::module_& module) {
  module.def("nms", &NmsOnArrays, py::arg("boxes"), py::arg("scores"), py::kw_only(),
             py::arg("iou_threshold"), py::arg("score_threshold") = -INFINITY,
             py::arg("max_output_size") = kNoMaximum);
  module.def("batched_nms", &BatchedNmsOnArrays, py::arg("boxes"), py::arg("scores"), py::kw_only(),
             py::arg("iou_threshold"), py::arg("score_threshold") = -INFINITY,
             py::arg("max_output_size") = 100, py::arg("max_output_size_per_class") = 100,
             py::arg("num_threads") = 1);
});

}  // namespace
}  // namespace kvision
