// Every op as a handler of XLA's foreign function interface: what a compiled program calls, be it
// made by TensorFlow or by JAX. Needs the header alone, which comes with either.
#pragma once

#include <cstddef>

#include "common/op.h"
#include "xla/ffi/api/c_api.h"

namespace kvision {

struct FfiHandlers {
  XLA_FFI_Handler* host;
  XLA_FFI_Handler* cuda;  // null where CUDA was not built
};

// The handlers of AllOps()[index].
FfiHandlers FfiHandlersOf(size_t index);

}  // namespace kvision
