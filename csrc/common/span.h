// A pointer with its length.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace kvision {

template <typename T>
struct Span {
  T* data;
  int64_t size;

  KVISION_HOST_DEVICE T& operator[](int64_t index) const { return data[index]; }
  KVISION_HOST_DEVICE T* begin() const { return data; }
  KVISION_HOST_DEVICE T* end() const { return data + size; }
};

}  // namespace kvision
