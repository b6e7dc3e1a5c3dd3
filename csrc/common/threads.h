// Threads for the kernels' ParallelFor: how a range is shared between the calling thread and those
// of a pool, and a pool for callers that have none of their own.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "common/parallel.h"

namespace kvision {

// A range that several threads take parts of. The calling thread takes part, so that the work ends
// even if the pool never gets to it: a kernel may run on a thread of that very pool.
class SharedRange : public std::enable_shared_from_this<SharedRange> {
 public:
  SharedRange(int64_t total, int64_t parts, RangeBody body)
      : total_(total), parts_(parts), body_(body) {}

  // For the other threads: returns when no part is left to be taken.
  void Help() {
    int64_t taken = 0;
    for (int64_t part; (part = next_.fetch_add(1)) < parts_; ++taken) {
      body_(total_ * part / parts_, total_ * (part + 1) / parts_);
    }
    if (taken == 0 || done_.fetch_add(taken) + taken < parts_) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    all_done_.notify_all();
  }

  // For the calling thread: returns when every part is done.
  void Run() {
    Help();
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_.load() == parts_; });
  }

 private:
  const int64_t total_, parts_;
  const RangeBody body_;  // used while parts are left, and so only while its owner waits
  std::atomic<int64_t> next_{0}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Runs `body`, which must not throw, on [0, total) with the help of up to num_threads - 1 tasks
// that `schedule` starts.
template <typename Schedule>
void ShareRange(int64_t total, int64_t cost, RangeBody body, int64_t num_threads,
                Schedule&& schedule) {
  // Below this many cycles, or about 10 microseconds, another thread is not worth waking.
  constexpr int64_t kCyclesWorthAThread = 30000, kPartsPerThread = 4;
  const int64_t worth =
      total / std::max<int64_t>(kCyclesWorthAThread / std::max<int64_t>(cost, 1), 1);
  const int64_t threads = std::min({num_threads, total, std::max<int64_t>(worth, 1)});
  if (total <= 0) return;
  if (threads == 1) return body(0, total);
  const auto range =
      std::make_shared<SharedRange>(total, std::min(total, threads * kPartsPerThread), body);
  try {
    for (int64_t i = 1; i < threads; ++i) schedule([range] { range->Help(); });
  } catch (const std::exception&) {  // There will be less help: those that have begun use `body`.
  }
  range->Run();
}

// Hands a task to the threads of this library, which wait for work from the first call on.
void ScheduleOnOwnThreads(std::function<void()> task);

// A thread for every core that this process may use.
int64_t NumOwnThreads();

// Pass it on at once: `RoiAlignCpu(..., ThreadsFor(2))`. 0 threads means one a core.
inline auto ThreadsFor(int64_t num_threads) {
  if (num_threads <= 0) num_threads = NumOwnThreads();
  return [num_threads](int64_t total, int64_t cost, RangeBody body) {
    ShareRange(total, cost, body, num_threads, ScheduleOnOwnThreads);
  };
}

}  // namespace kvision
