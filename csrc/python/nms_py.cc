// nms and batched_nms on NumPy arrays: the CPU kernels without TensorFlow.
#include <pybind11/numpy.h>

#include <cmath>
#include <stdexcept>

#include "common/threads.h"
#include "ops/batched_nms/batched_nms.h"
#include "ops/nms/nms.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t>;

void Require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

py::tuple NmsOnArrays(const Floats& boxes, const Floats& scores, float iou_threshold,
                      float score_threshold, int64_t max_output_size) {
  Require(boxes.ndim() == 2 && boxes.shape(1) == 4, "nms: `boxes` must have shape (num_boxes, 4).");
  Require(scores.ndim() == 1 && scores.shape(0) == boxes.shape(0),
          "nms: `scores` must have shape (num_boxes,).");
  Require(max_output_size == kNoMaximum || max_output_size >= 1,
          "nms: `max_output_size` must be positive, or -1 for none.");
  Ints indices(NmsOutputSize(boxes.shape(0), max_output_size));
  int32_t count;
  NmsCpu(boxes.data(), scores.data(), boxes.shape(0),
         {iou_threshold, score_threshold, max_output_size}, indices.mutable_data(), &count);
  return py::make_tuple(indices, count);
}

py::tuple BatchedNmsOnArrays(const Floats& boxes, const Floats& scores, float iou_threshold,
                             float score_threshold, int64_t max_output_size,
                             int64_t max_output_size_per_class, int num_threads) {
  Require(boxes.ndim() == 4 && boxes.shape(3) == 4 && scores.ndim() == 3,
          "batched_nms: `boxes` must have shape (batch, num_boxes, num_classes or 1, 4), `scores` "
          "(batch, num_boxes, num_classes).");
  const BatchedNmsShape shape{scores.shape(0), scores.shape(1), scores.shape(2),
                              boxes.shape(2) == 1};
  Require(boxes.shape(0) == shape.batch && boxes.shape(1) == shape.num_boxes &&
              (shape.shared_boxes || boxes.shape(2) == shape.num_classes),
          "batched_nms: `boxes` and `scores` must have the same batch, boxes and classes.");
  Require(max_output_size >= 1 && max_output_size_per_class >= 1,
          "batched_nms: `max_output_size` and `max_output_size_per_class` must be positive.");
  Ints indices({shape.batch, max_output_size});
  Ints labels({shape.batch, max_output_size});
  Ints num_detections(shape.batch);
  BatchedNmsCpu(boxes.data(), scores.data(), shape,
                {iou_threshold, score_threshold, max_output_size, max_output_size_per_class},
                indices.mutable_data(), labels.mutable_data(), num_detections.mutable_data(),
                ThreadsFor(num_threads));
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
