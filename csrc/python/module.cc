// The module `kvision._C`: what the library was built with, and every op without TensorFlow. Links
// no framework, so that it always loads.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "python/calls.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "The native kernels of kvision on NumPy arrays, and what other doors need.";
  module.def(
      "build_info",
      [] {
        return std::map<std::string, std::string>{
            {"kvision", KVISION_VERSION},
            {"tensorflow", KVISION_TENSORFLOW_VERSION},
            {"xla_ffi", KVISION_XLA_FFI_VERSION},
            {"compiler", KVISION_COMPILER},
            {"cuda", KVISION_CUDA_VERSION},
            {"cuda_architectures", KVISION_CUDA_ARCHITECTURE_LIST},
        };
      },
      "What the library was built with; empty where a part was left out.");
  kvision::DefineCalls(module);
}
