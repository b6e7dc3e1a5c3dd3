// Plain threads as the kernels' ParallelFor, for callers that have no pool of their own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "common/parallel.h"

namespace kvision {

// Pass it on at once: `RoiAlignCpu(..., ThreadsFor(2))`. 0 threads means one a core.
inline auto ThreadsFor(int num_threads) {
  const int64_t limit =
      num_threads > 0 ? num_threads : std::max(1u, std::thread::hardware_concurrency());
  return [limit](int64_t total, int64_t /*cost*/, RangeBody body) {
    const int64_t parts = std::min(limit, total);
    std::vector<std::thread> threads;
    for (int64_t part = 1; part < parts; ++part) {
      threads.emplace_back([=] { body(total * part / parts, total * (part + 1) / parts); });
    }
    if (parts > 0) body(0, total / parts);
    for (std::thread& thread : threads) thread.join();
  };
}

}  // namespace kvision
