#include "common/threads.h"

#include <deque>
#include <thread>

namespace kvision {
namespace {

class OwnThreads {
 public:
  OwnThreads() {
    for (int64_t i = 1; i < NumOwnThreads(); ++i) {
      std::thread([this] { Work(); }).detach();
    }
  }

  void Schedule(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    some_.notify_one();
  }

 private:
  [[noreturn]] void Work() {
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        some_.wait(lock, [this] { return !tasks_.empty(); });
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace

int64_t NumOwnThreads() { return std::max(1u, std::thread::hardware_concurrency()); }

void ScheduleOnOwnThreads(std::function<void()> task) {
  // Never destroyed: its threads live as long as the process. In a child of fork they do not live
  // at all, and the tasks are done by those who share them out.
  static OwnThreads* const threads = new OwnThreads;
  threads->Schedule(std::move(task));
}

}  // namespace kvision
