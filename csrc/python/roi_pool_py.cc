// roi_pool and its gradient on NumPy arrays: the CPU kernels without TensorFlow.
#include <pybind11/stl.h>

#include <cstdint>
#include <utility>

#include "common/threads.h"
#include "ops/roi_pool/roi_pool.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

using Size = std::pair<int64_t, int64_t>;  // (height, width)

template <typename T>
py::tuple Forward(const Array<T>& features, const Array<T>& boxes, Size output_size,
                  double spatial_scale, int num_threads) {
  Sizes sizes("roi_pool");
  sizes.Set("output_height", output_size.first);
  sizes.Set("output_width", output_size.second);
  MatchArray(features, kRoiPoolInputs[0], &sizes);
  MatchArray(boxes, kRoiPoolInputs[1], &sizes);
  const RoiPoolParameters parameters = {sizes["batch"],     sizes["num_boxes"], sizes["channels"],
                                        sizes["height"],    sizes["width"],     output_size.first,
                                        output_size.second, spatial_scale};
  Require(CheckRoiPool(parameters));
  auto output = MakeArray<T>(kRoiPoolOutputs[0], sizes);
  auto argmax = MakeArray<int32_t>(kRoiPoolOutputs[1], sizes);
  RoiPoolForward<T>(parameters, features.data(), boxes.data(), output.mutable_data(),
                    argmax.mutable_data(), ThreadsFor(num_threads));
  return py::make_tuple(output, argmax);
}

template <typename T>
Array<T> Backward(const Array<T>& output_gradient, const Array<int32_t>& argmax, Size feature_size,
                  int num_threads) {
  Sizes sizes("roi_pool");
  MatchArray(output_gradient, kRoiPoolGradInputs[0], &sizes);
  MatchArray(argmax, kRoiPoolGradInputs[1], &sizes);
  const auto [height, width] = feature_size;
  if (height < 0 || width < 0) {
    Require(Complaint("roi_pool", "`feature_size` must not be negative. Received: ", height,
                      " and ", width, "."));
  }
  sizes.Set("height", height);
  sizes.Set("width", width);
  const RoiPoolParameters parameters = {
      sizes["batch"], sizes["num_boxes"],     sizes["channels"],     height,
      width,          sizes["output_height"], sizes["output_width"], 1.0};
  Require(CheckRoiPool(parameters));
  auto gradient = MakeArray<T>(kRoiPoolGradOutputs[0], sizes);
  RoiPoolBackward<T>(parameters, output_gradient.data(), argmax.data(), gradient.mutable_data(),
                     ThreadsFor(num_threads));
  return gradient;
}

template <typename T>
void Define(py::module_& module) {
  module.def("roi_pool", &Forward<T>, py::arg("features"), py::arg("boxes"), py::kw_only(),
             py::arg("output_size"), py::arg("spatial_scale") = 1.0, py::arg("num_threads") = 0);
  module.def("roi_pool_gradient", &Backward<T>, py::arg("output_gradient"), py::arg("argmax"),
             py::kw_only(), py::arg("feature_size"), py::arg("num_threads") = 0);
}

const Binding binding([](py::module_& module) {
  Define<float>(module);
  Define<double>(module);
});

}  // namespace
}  // namespace kvision
