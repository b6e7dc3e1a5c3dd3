// Each <op>_py.cc adds its functions to the module by one object of this type, so that a new op
// edits no central file.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace kvision {

class Binding {
 public:
  using Define = void (*)(pybind11::module_&);

  explicit Binding(Define define) { All().push_back(define); }

  static std::vector<Define>& All() {
    static std::vector<Define> all;
    return all;
  }
};

}  // namespace kvision
