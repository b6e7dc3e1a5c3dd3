// RoIAlign on NumPy arrays, and on device pointers where CUDA was built: the kernels without
// TensorFlow.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "ops/roi_align/roi_align.h"
#include "python/arrays.h"
#include "python/binding.h"

namespace kvision {
namespace {

namespace py = pybind11;

using Size = std::pair<int64_t, int64_t>;

template <typename T>
RoiAlignParameters MatchGeometry(const Array<T>& boxes, const Array<int32_t>& levels,
                                 const Array<double>& spatial_scales, Size output_size,
                                 int64_t sampling_ratio, bool aligned, Sizes* sizes) {
  Require(CheckRoiAlign(sizes->operator[]("num_levels"), sampling_ratio));
  Require(CheckRoiAlignOutputSize(output_size.first, output_size.second));
  MatchArrays(kRoiAlignGeometry, sizes, boxes, levels, spatial_scales);
  for (int64_t level = 0; level < spatial_scales.size(); ++level) {
    Require(CheckRoiAlignScale(spatial_scales.data()[level]));
  }
  sizes->Set("output_height", output_size.first);
  sizes->Set("output_width", output_size.second);
  return {(*sizes)["batch"],  (*sizes)["num_boxes"], 0,      output_size.first,
          output_size.second, sampling_ratio,        aligned};
}

template <typename T>
Array<T> Forward(const std::vector<Array<T>>& features, const Array<T>& boxes,
                 const Array<int32_t>& levels, const Array<double>& spatial_scales,
                 Size output_size, int64_t sampling_ratio, bool aligned, int num_threads) {
  Sizes sizes("roi_align");
  sizes.Set("num_levels", static_cast<int64_t>(features.size()));
  RoiAlignParameters parameters =
      MatchGeometry(boxes, levels, spatial_scales, output_size, sampling_ratio, aligned, &sizes);
  std::vector<RoiAlignLevel<const T>> views;
  for (size_t level = 0; level < features.size(); ++level) {
    const Array<T>& map = features[level];
    MatchArray(map, kRoiAlignFeatures, &sizes);
    views.push_back({map.data(), map.shape(1), map.shape(2), spatial_scales.data()[level]});
  }
  parameters.channels = sizes["channels"];
  auto output = MakeArray<T>(kRoiAlignOutput, sizes);
  RoiAlignForward<T>(parameters, {views.data(), static_cast<int64_t>(views.size())}, boxes.data(),
                     levels.data(), output.mutable_data(), ThreadsFor(num_threads));
  return output;
}

template <typename T>
std::vector<Array<T>> Backward(const Array<T>& output_gradient, const Array<T>& boxes,
                               const Array<int32_t>& levels, const Array<double>& spatial_scales,
                               const std::vector<Size>& feature_sizes, int64_t sampling_ratio,
                               bool aligned, int num_threads) {
  Sizes sizes("roi_align");
  sizes.Set("num_levels", static_cast<int64_t>(feature_sizes.size()));
  MatchArray(output_gradient, {"output_gradient", kRoiAlignOutput.axes}, &sizes);
  RoiAlignParameters parameters =
      MatchGeometry(boxes, levels, spatial_scales, {sizes["output_height"], sizes["output_width"]},
                    sampling_ratio, aligned, &sizes);
  parameters.channels = sizes["channels"];
  std::vector<Array<T>> gradients;
  std::vector<RoiAlignLevel<T>> views;
  for (size_t level = 0; level < feature_sizes.size(); ++level) {
    const auto [height, width] = feature_sizes[level];
    if (height < 0 || width < 0) {
      Require(Complaint("roi_align", "`feature_sizes` must not be negative. Received: ", height,
                        " and ", width, "."));
    }
    gradients.emplace_back(
        std::vector<int64_t>{parameters.batch, height, width, parameters.channels});
    views.push_back({gradients.back().mutable_data(), height, width, spatial_scales.data()[level]});
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
  const char* Run(bool forward) const {
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
  Require(CheckRoiAlign(static_cast<int64_t>(maps.size()), sampling_ratio));
  if (sizes.size() != maps.size() || spatial_scales.size() != maps.size()) {
    Require(Complaint("roi_align", "`sizes` and `spatial_scales` must have one entry a map."));
  }
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
  const char* error;
  if (dtype == "float16") {
    error = call.Run<Half>(forward);
  } else if (dtype == "bfloat16") {
    error = call.Run<BFloat16>(forward);
  } else if (dtype == "float32") {
    error = call.Run<float>(forward);
  } else if (dtype == "float64") {
    error = call.Run<double>(forward);
  } else {
    throw std::invalid_argument(Complaint(
        "roi_align", "`dtype` must be float16, bfloat16, float32 or float64. Received: ", dtype));
  }
  if (error != nullptr) throw std::runtime_error(Complaint("roi_align", error));
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
