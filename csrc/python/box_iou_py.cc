// box_iou and its gradient on NumPy arrays: the CPU kernels without TensorFlow.
#include <string>

#include "common/threads.h"
#include "ops/box_iou/box_iou.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

template <typename F>
BoxIouParameters MatchBoxes(const Array<F>& boxes1, const Array<F>& boxes2, const std::string& kind,
                            bool pairwise, Sizes* sizes) {
  BoxIouParameters parameters;
  Require(ParseIouKind(kind, pairwise, &parameters.kind));
  MatchArrays(pairwise ? kBoxIouInputs : kBoxIouElementwiseInputs, sizes, boxes1, boxes2);
  parameters.batch = (*sizes)["batch"];
  parameters.num_boxes1 = (*sizes)["num_boxes1"];
  parameters.num_boxes2 = pairwise ? (*sizes)["num_boxes2"] : parameters.num_boxes1;
  parameters.pairwise = pairwise;
  return parameters;
}

template <typename F>
Array<F> Forward(const Array<F>& boxes1, const Array<F>& boxes2, const std::string& kind,
                 bool pairwise, int num_threads) {
  Sizes sizes(BoxIouName(pairwise));
  const BoxIouParameters parameters = MatchBoxes(boxes1, boxes2, kind, pairwise, &sizes);
  auto output = MakeArray<F>(pairwise ? kBoxIouOutput : kBoxIouElementwiseOutput, sizes);
  BoxIouForward<F>(parameters, boxes1.data(), boxes2.data(), output.mutable_data(),
                   ThreadsFor(num_threads));
  return output;
}

template <typename F>
py::tuple Backward(const Array<F>& output_gradient, const Array<F>& boxes1, const Array<F>& boxes2,
                   const std::string& kind, bool pairwise, int num_threads) {
  Sizes sizes(BoxIouName(pairwise));
  const BoxIouParameters parameters = MatchBoxes(boxes1, boxes2, kind, pairwise, &sizes);
  MatchArray(output_gradient,
             {"output_gradient", (pairwise ? kBoxIouOutput : kBoxIouElementwiseOutput).axes},
             &sizes);
  auto gradient1 = MakeArray<F>(kBoxIouInputs[0], sizes);
  auto gradient2 = MakeArray<F>((pairwise ? kBoxIouInputs : kBoxIouElementwiseInputs)[1], sizes);
  BoxIouBackward<F>(parameters, output_gradient.data(), boxes1.data(), boxes2.data(),
                    gradient1.mutable_data(), gradient2.mutable_data(), ThreadsFor(num_threads));
  return py::make_tuple(gradient1, gradient2);
}

template <typename F>
void Define(py::module_& module) {
  module.def("box_iou", &Forward<F>, py::arg("boxes1"), py::arg("boxes2"), py::kw_only(),
             py::arg("kind") = "iou", py::arg("pairwise") = true, py::arg("num_threads") = 0);
  module.def("box_iou_gradient", &Backward<F>, py::arg("output_gradient"), py::arg("boxes1"),
             py::arg("boxes2"), py::kw_only(), py::arg("kind") = "iou", py::arg("pairwise") = true,
             py::arg("num_threads") = 0);
}

const Binding binding([](py::module_& module) {
  Define<float>(module);
  Define<double>(module);
});

}  // namespace
}  // namespace kvision
