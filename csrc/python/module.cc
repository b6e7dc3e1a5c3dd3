// The module `kvision._C`: what the library was built with, and the kernels on NumPy arrays. Links
// no TensorFlow, so that it always loads.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "python/binding.h"

PYBIND11_MODULE(_C, module) {
  module.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"kvision", KVISION_VERSION},
        {"tensorflow", KVISION_TENSORFLOW_VERSION},
        {"compiler", KVISION_COMPILER},
        {"cuda", KVISION_CUDA_VERSION},
        {"cuda_architectures", KVISION_CUDA_ARCHITECTURE_LIST},
    };
  });
  for (const kvision::Binding::Define define : kvision::Binding::All()) define(module);
}
