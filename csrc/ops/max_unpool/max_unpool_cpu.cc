#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "common/isa.h"
#include "ops/max_unpool/max_unpool.h"

#define KVISION_ISA_FILE "ops/max_unpool/max_unpool_row.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickUnpoolRow() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::UnpoolRow<T>;
    case Isa::kAvx2:
      return &avx2::UnpoolRow<T>;
#endif
    default:
      return &baseline::UnpoolRow<T>;
  }
}

// The least of the indices that threads find.
class FirstIndex {
 public:
  void Add(int64_t index) {
    int64_t known = first_.load(std::memory_order_relaxed);
    while (index < known && !first_.compare_exchange_weak(known, index)) {
    }
  }
  int64_t OrMinusOne() const { return first_ == kNone ? -1 : first_.load(); }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone};
};

// Any argmax: a task owns a few channels of one map, a cache line of each cell, and takes the
// values in order.
template <typename T>
void UnpoolInOrder(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax, T* map,
                   const std::vector<int64_t>& images, FirstIndex* wrong,
                   ParallelFor parallel_for) {
  using F = AccumulatorOf<T>;
  constexpr int64_t kBlock = 16;
  // Lines so far apart are not fetched ahead by the processor itself.
  constexpr int64_t kPositionsAhead = 8;
  constexpr bool kInPlace = std::is_same_v<T, F>;
  const int64_t channels = parameters.channels, cells = parameters.Cells();
  const int64_t positions = parameters.Positions();
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  const auto run = [&](int64_t begin, int64_t end) {
    std::vector<F> sums(kInPlace ? 0 : cells * kBlock);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = images[task / blocks], first = task % blocks * kBlock;
      const int64_t size = std::min(kBlock, channels - first);
      T* const own = map + image * cells * channels + first;
      F* target;
      int64_t stride;
      if constexpr (kInPlace) {
        target = own;
        stride = channels;
      } else {
        target = sums.data();
        stride = kBlock;
      }
      for (int64_t cell = 0; cell < cells; ++cell) std::fill_n(target + cell * stride, size, F(0));
      for (int64_t position = image * positions; position < (image + 1) * positions; ++position) {
        const int64_t at = position * channels + first;
        if (position + kPositionsAhead < (image + 1) * positions) {
          __builtin_prefetch(x + at + kPositionsAhead * channels);
          __builtin_prefetch(argmax + at + kPositionsAhead * channels);
        }
        for (int64_t channel = 0; channel < size; ++channel) {
          const int64_t cell = argmax[at + channel];
          if (cell < 0 || cell >= cells) {
            wrong->Add(at + channel);
          } else {
            target[cell * stride + channel] += ToFloat(x[at + channel]);
          }
        }
      }
      if constexpr (!kInPlace) {
        for (int64_t cell = 0; cell < cells; ++cell) {
          std::transform(target + cell * stride, target + cell * stride + size,
                         own + cell * channels, [](F sum) { return FromFloat<T>(sum); });
        }
      }
    }
  };
  parallel_for(static_cast<int64_t>(images.size()) * blocks, (cells + 4 * positions) * kBlock, run);
}

}  // namespace

template <typename T>
int64_t MaxUnpool(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax, T* map,
                  ParallelFor parallel_for) {
  const int64_t batch = parameters.batch, channels = parameters.channels;
  const int64_t cells = parameters.Cells(), positions = parameters.Positions();
  FirstIndex wrong;
  if (batch * channels * std::max(cells, positions) == 0) return -1;
  std::vector<int64_t> images;
  if (!parameters.HaveBlocks()) {
    images.resize(batch);
    std::iota(images.begin(), images.end(), int64_t{0});
    UnpoolInOrder(parameters, x, argmax, map, images, &wrong, parallel_for);
    return wrong.OrMinusOne();
  }
  // First as if no windows overlapped, and an image where that is not so once more.
  const std::unique_ptr<std::atomic<bool>[]> overlaps(new std::atomic<bool>[batch] {});
  const auto unpool_row = PickUnpoolRow<T>();
  const int64_t windows = parameters.output_height;
  const int64_t block = MaxUnpoolBlock(parameters.height, windows);
  parallel_for(
      batch * windows, cells / windows * channels / 4 + 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const int64_t image = row / windows, window = row % windows;
          if (overlaps[image].load(std::memory_order_relaxed)) continue;
          const int64_t at = row * parameters.output_width * channels;
          const int64_t bottom = window + 1 == windows ? parameters.height : (window + 1) * block;
          if (!unpool_row(x + at, argmax + at, parameters, window * block, bottom,
                          map + image * cells * channels)) {
            overlaps[image].store(true, std::memory_order_relaxed);
          }
        }
      });
  for (int64_t image = 0; image < batch; ++image) {
    if (overlaps[image]) images.push_back(image);
  }
  UnpoolInOrder(parameters, x, argmax, map, images, &wrong, parallel_for);
  return wrong.OrMinusOne();
}

template <typename T>
int64_t MaxUnpoolGradient(const MaxUnpoolParameters& parameters, const T* map,
                          const int32_t* argmax, T* x_gradient, ParallelFor parallel_for) {
  const int64_t channels = parameters.channels, cells = parameters.Cells();
  const int64_t positions = parameters.Positions();
  FirstIndex wrong;
  parallel_for(parameters.batch * positions, 4 * channels + 1, [&](int64_t begin, int64_t end) {
    for (int64_t position = begin; position < end; ++position) {
      const T* const own = map + position / positions * cells * channels;
      const int64_t at = position * channels;
      for (int64_t channel = 0; channel < channels; ++channel) {
        const int64_t cell = argmax[at + channel];
        if (cell < 0 || cell >= cells) {
          wrong.Add(at + channel);
        } else {
          x_gradient[at + channel] = own[cell * channels + channel];
        }
      }
    }
  });
  return wrong.OrMinusOne();
}

#define KVISION_MAX_UNPOOL(T)                                                                     \
  template int64_t MaxUnpool<T>(const MaxUnpoolParameters&, const T*, const int32_t*, T*,         \
                                ParallelFor);                                                     \
  template int64_t MaxUnpoolGradient<T>(const MaxUnpoolParameters&, const T*, const int32_t*, T*, \
                                        ParallelFor);
KVISION_MAX_UNPOOL(Half)
KVISION_MAX_UNPOOL(BFloat16)
KVISION_MAX_UNPOOL(float)
KVISION_MAX_UNPOOL(double)
#undef KVISION_MAX_UNPOOL

}  // namespace kvision
