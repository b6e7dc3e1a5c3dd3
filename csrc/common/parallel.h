// How kernels are split over threads without knowing whose threads they are.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace kvision {

template <typename Signature>
class FunctionRef;

// A callable by reference: two pointers, no allocation. It must not outlive what it refers to, so
// it is a parameter type only.
template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <typename Callable,
            typename = std::enable_if_t<!std::is_same_v<std::decay_t<Callable>, FunctionRef>>>
  FunctionRef(Callable&& callable)  // NOLINT: implicit on purpose
      : callable_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* callable, Args... args) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(callable))(args...);
        }) {}

  Result operator()(Args... args) const { return call_(callable_, args...); }

 private:
  void* callable_;
  Result (*call_)(void*, Args...);
};

// The work on units [begin, end).
using RangeBody = FunctionRef<void(int64_t begin, int64_t end)>;

// Runs `body` on disjoint ranges that cover [0, total), at once where the caller has threads.
// `cost` is a unit's rough price in CPU cycles. A kernel is deterministic when every unit writes
// its own part of the output: where ranges are cut is not fixed.
using ParallelFor = FunctionRef<void(int64_t total, int64_t cost, RangeBody body)>;

}  // namespace kvision
