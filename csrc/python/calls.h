// Calls of ops from Python: what `kvision._C` offers of them.
#pragma once

#include <pybind11/pybind11.h>

namespace kvision {

// Adds a function on NumPy arrays for every op, `ops`, `output_specs`, `run` and `ffi_handlers`.
void DefineCalls(pybind11::module_& module);

}  // namespace kvision
