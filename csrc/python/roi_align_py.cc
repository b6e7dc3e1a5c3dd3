// RoIAlign on NumPy arrays, and on device pointers where CUDA was built: the kernels without
// TensorFlow.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "ops/roi_align/roi_align.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void Require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("roi_align: ") + message);
}

// Batch, number and grid; the caller adds the channels.
template <typename T>
RoiAlignParameters Parameters(const Array<T>& boxes, const Array<int32_t>& levels,
                              std::pair<int64_t, int64_t> output_size, int64_t sampling_ratio,
                              bool aligned) {
  Require(boxes.ndim() == 3 && boxes.shape(2) == 4,
          "`boxes` must have shape (batch, num_boxes, 4).");
  Require(
      levels.ndim() == 2 && levels.shape(0) == boxes.shape(0) && levels.shape(1) == boxes.shape(1),
      "`levels` must have shape (batch, num_boxes) of `boxes`.");
  Require(output_size.first > 0 && output_size.second > 0, "`output_size` must be positive.");
  Require(sampling_ratio >= 0 && sampling_ratio <= kRoiAlignMaxSamplingRatio,
          "`sampling_ratio` must lie between 0 and 128.");
  return {boxes.shape(0),     boxes.shape(1), 0,      output_size.first,
          output_size.second, sampling_ratio, aligned};
}

void RequireScales(const std::vector<double>& spatial_scales, size_t num_levels) {
  Require(num_levels > 0 && num_levels == spatial_scales.size(),
          "there must be one of `spatial_scales` a level, and at least one level.");
  for (const double scale : spatial_scales)
    Require(scale > 0, "`spatial_scales` must be positive.");
}

template <typename T>
Array<T> Forward(const std::vector<Array<T>>& features, const Array<T>& boxes,
                 const Array<int32_t>& levels, const std::vector<double>& spatial_scales,
                 std::pair<int64_t, int64_t> output_size, int64_t sampling_ratio, bool aligned,
                 int num_threads) {
  RoiAlignParameters parameters = Parameters(boxes, levels, output_size, sampling_ratio, aligned);
  RequireScales(spatial_scales, features.size());
  std::vector<RoiAlignLevel<const T>> views;
  for (size_t level = 0; level < features.size(); ++level) {
    const Array<T>& map = features[level];
    Require(
        map.ndim() == 4 && map.shape(0) == parameters.batch && map.shape(3) == features[0].shape(3),
        "`features` must have shape (batch, height, width, channels), batch and channels equal.");
    views.push_back({map.data(), map.shape(1), map.shape(2), spatial_scales[level]});
  }
  parameters.channels = features[0].shape(3);
  Array<T> output({parameters.batch, parameters.num_boxes, output_size.first, output_size.second,
                   parameters.channels});
  RoiAlignForward<T>(parameters, {views.data(), static_cast<int64_t>(views.size())}, boxes.data(),
                     levels.data(), output.mutable_data(), ThreadsFor(num_threads));
  return output;
}

template <typename T>
std::vector<Array<T>> Backward(const Array<T>& output_gradient, const Array<T>& boxes,
                               const Array<int32_t>& levels,
                               const std::vector<double>& spatial_scales,
                               const std::vector<std::pair<int64_t, int64_t>>& feature_sizes,
                               int64_t sampling_ratio, bool aligned, int num_threads) {
  Require(output_gradient.ndim() == 5, "`output_gradient` must have five axes.");
  RoiAlignParameters parameters = Parameters(
      boxes, levels, {output_gradient.shape(2), output_gradient.shape(3)}, sampling_ratio, aligned);
  Require(output_gradient.shape(0) == parameters.batch &&
              output_gradient.shape(1) == parameters.num_boxes,
          "`output_gradient` must have the batch and number of `boxes`.");
  RequireScales(spatial_scales, feature_sizes.size());
  parameters.channels = output_gradient.shape(4);
  std::vector<Array<T>> gradients;
  std::vector<RoiAlignLevel<T>> views;
  for (size_t level = 0; level < feature_sizes.size(); ++level) {
    const auto [height, width] = feature_sizes[level];
    Require(height >= 0 && width >= 0, "`feature_sizes` must not be negative.");
    gradients.emplace_back(
        std::vector<int64_t>{parameters.batch, height, width, parameters.channels});
    views.push_back({gradients.back().mutable_data(), height, width, spatial_scales[level]});
  }
  RoiAlignBackward<T>(parameters, output_gradient.data(), boxes.data(), levels.data(),
                      {views.data(), static_cast<int64_t>(views.size())}, ThreadsFor(num_threads));
  return gradients;
}

template <typename T>
void Define(py::module_& module) {
  module.def("roi_align", &Forward<T>, py::arg("features"), py::arg("boxes"), py::arg("levels"),
             py::arg("spatial_scales"), py::arg("output_size"), py::arg("sampling_ratio") = 0,
             py::arg("aligned") = true, py::arg("num_threads") = 0);
  module.def("roi_align_gradient", &Backward<T>, py::arg("output_gradient"), py::arg("boxes"),
             py::arg("levels"), py::arg("spatial_scales"), py::arg("feature_sizes"),
             py::arg("sampling_ratio") = 0, py::arg("aligned") = true, py::arg("num_threads") = 0);
}

#ifdef KVISION_WITH_CUDA

// Device addresses as integers, as `tensor.data_ptr()` gives them; `maps` are the features going
// forward and their gradients going back.
struct CudaCall {
  RoiAlignParameters parameters;
  std::vector<uintptr_t> maps;
  std::vector<std::pair<int64_t, int64_t>> sizes;
  std::vector<double> spatial_scales;
  uintptr_t boxes, levels, output, workspace, stream;

  template <typename T>
  int Run(bool forward) const {
    const auto* box_data = reinterpret_cast<const RoiAlignBox<T>*>(boxes);
    const auto* level_data = reinterpret_cast<const int32_t*>(levels);
    void* const on_stream = reinterpret_cast<void*>(stream);
    if (forward) {
      const std::vector<RoiAlignLevel<const T>> views = Views<const T>();
      return RoiAlignForwardCuda<T>(parameters, {views.data(), static_cast<int64_t>(views.size())},
                                    box_data, level_data, reinterpret_cast<T*>(output), on_stream);
    }
    const std::vector<RoiAlignLevel<T>> views = Views<T>();
    return RoiAlignBackwardCuda<T>(parameters, reinterpret_cast<const T*>(output), box_data,
                                   level_data, {views.data(), static_cast<int64_t>(views.size())},
                                   reinterpret_cast<void*>(workspace), on_stream);
  }

 private:
  template <typename Data>
  std::vector<RoiAlignLevel<Data>> Views() const {
    std::vector<RoiAlignLevel<Data>> views;
    for (size_t level = 0; level < maps.size(); ++level) {
      views.push_back({reinterpret_cast<Data*>(maps[level]), sizes[level].first,
                       sizes[level].second, spatial_scales[level]});
    }
    return views;
  }
};

void RunOnCuda(bool forward, const std::string& dtype, const std::vector<uintptr_t>& maps,
               const std::vector<std::pair<int64_t, int64_t>>& sizes,
               const std::vector<double>& spatial_scales, uintptr_t boxes, uintptr_t levels,
               uintptr_t output, uintptr_t workspace, int64_t batch, int64_t num_boxes,
               int64_t channels, std::pair<int64_t, int64_t> output_size, int64_t sampling_ratio,
               bool aligned, uintptr_t stream) {
  RequireScales(spatial_scales, maps.size());
  Require(sizes.size() == maps.size() && maps.size() <= kRoiAlignMaxLevels,
          "there must be one size a map, and at most 8 maps.");
  const CudaCall call = {
      {batch, num_boxes, channels, output_size.first, output_size.second, sampling_ratio, aligned},
      maps,
      sizes,
      spatial_scales,
      boxes,
      levels,
      output,
      workspace,
      stream};
  int error;
  if (dtype == "float16") {
    error = call.Run<Half>(forward);
  } else if (dtype == "bfloat16") {
    error = call.Run<BFloat16>(forward);
  } else if (dtype == "float32") {
    error = call.Run<float>(forward);
  } else {
    Require(dtype == "float64", "`dtype` must be float16, bfloat16, float32 or float64.");
    error = call.Run<double>(forward);
  }
  if (error != 0) throw std::runtime_error("roi_align: CUDA error " + std::to_string(error) + ".");
}

// The workspace of the gradient holds 32 bytes a box; the forward pass takes 0 for none.
void DefineCuda(py::module_& module) {
  module.def("roi_align_cuda", &RunOnCuda, py::kw_only(), py::arg("forward"), py::arg("dtype"),
             py::arg("maps"), py::arg("sizes"), py::arg("spatial_scales"), py::arg("boxes"),
             py::arg("levels"), py::arg("output"), py::arg("workspace"), py::arg("batch"),
             py::arg("num_boxes"), py::arg("channels"), py::arg("output_size"),
             py::arg("sampling_ratio"), py::arg("aligned"), py::arg("stream"));
}

#else

void DefineCuda(py::module_&) {}

#endif

const Binding binding([](py::module_& module) {
  Define<float>(module);
  Define<double>(module);
  DefineCuda(module);
});

}  // namespace
}  // namespace kvision
