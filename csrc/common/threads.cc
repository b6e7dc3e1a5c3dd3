#include "common/threads.h"

#include <pthread.h>

#include <deque>
#include <system_error>
#include <thread>

namespace kvision {
namespace {

class OwnThreads {
 public:
  OwnThreads() {
    try {
      for (int64_t i = 1; i < NumOwnThreads(); ++i) std::thread([this] { Work(); }).detach();
    } catch (const std::system_error&) {  // No more of them: those that run hold on to this.
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

// Never destroyed: its threads live as long as the process. They do not live on in a child of fork,
// which makes its own when it first needs them.
OwnThreads* own_threads = nullptr;
std::mutex making;
const int kForking = pthread_atfork([] { making.lock(); }, [] { making.unlock(); },
                                    [] {
                                      own_threads = nullptr;
                                      making.unlock();
                                    });

}  // namespace

int64_t NumOwnThreads() { return std::max(1u, std::thread::hardware_concurrency()); }

void ScheduleOnOwnThreads(std::function<void()> task) {
  OwnThreads* threads;
  {
    const std::lock_guard<std::mutex> lock(making);
    if (own_threads == nullptr) own_threads = new OwnThreads;
    threads = own_threads;
  }
  threads->Schedule(std::move(task));
}

}  // namespace kvision
