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

// The rows [begin, end) of the map that one row of windows reaches.
struct Reach {
  int64_t begin, end;
};

// Also finds what is off the map.
Reach ReachOfRow(const MaxUnpoolParameters& parameters, const int32_t* argmax, int64_t first,
                 FirstIndex* wrong) {
  const int64_t size = parameters.output_width * parameters.channels;
  int32_t least = argmax[first], greatest = argmax[first];
  for (int64_t at = first; at < first + size; ++at) {
    least = std::min(least, argmax[at]);
    greatest = std::max(greatest, argmax[at]);
  }
  if (least < 0 || greatest >= parameters.Cells()) {
    int64_t at = first;
    while (argmax[at] >= 0 && argmax[at] < parameters.Cells()) ++at;
    wrong->Add(at);
    return {0, 0};
  }
  return {least / parameters.width, greatest / parameters.width + 1};
}

// Adds those values of a row of windows whose cells are in [first_cell, first_cell + number).
template <typename T>
void AddRow(const T* x, const int32_t* argmax, int64_t size, int64_t channels, int64_t first_cell,
            uint64_t number, AccumulatorOf<T>* sums) {
  for (int64_t position = 0; position < size; position += channels) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const auto cell = static_cast<uint64_t>(argmax[position + channel] - first_cell);
      if (cell < number) sums[cell * channels + channel] += ToFloat(x[position + channel]);
    }
  }
}

// Any argmax: a task owns a band of rows of one map, small enough for a cache, and takes the values
// that reach it in their order.
template <typename T>
void UnpoolInOrder(const MaxUnpoolParameters& parameters, const T* x, const int32_t* argmax, T* map,
                   const std::vector<int64_t>& images, FirstIndex* wrong,
                   ParallelFor parallel_for) {
  using F = AccumulatorOf<T>;
  constexpr int64_t kBandValues = 1 << 17;
  const auto number = static_cast<int64_t>(images.size());
  const int64_t channels = parameters.channels, cells = parameters.Cells();
  const int64_t windows = parameters.output_height;
  const int64_t row_size = parameters.output_width * channels;
  std::vector<Reach> reaches(number * windows);
  if (row_size > 0) {
    parallel_for(number * windows, row_size, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t of_batch = images[row / windows] * windows + row % windows;
        reaches[row] = ReachOfRow(parameters, argmax, of_batch * row_size, wrong);
      }
    });
  }
  if (wrong->OrMinusOne() >= 0 || cells == 0) return;
  int64_t band = std::max<int64_t>(kBandValues / (parameters.width * channels), 1);
  int64_t visits = 0;
  for (const Reach& reach : reaches) {
    if (reach.begin < reach.end) visits += (reach.end - 1) / band - reach.begin / band + 1;
  }
  // Without an order among them all values would be gone through once a band.
  if (visits > 4 * number * windows) band = parameters.height;
  const int64_t bands = (parameters.height + band - 1) / band;
  const int64_t cost = 4 * (cells + parameters.Positions()) * channels / bands;
  parallel_for(number * bands, cost, [&](int64_t begin, int64_t end) {
    std::vector<F> sums;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = images[task / bands], first_row = task % bands * band;
      const int64_t end_row = std::min(first_row + band, parameters.height);
      const int64_t first_cell = first_row * parameters.width;
      const auto own_cells = static_cast<uint64_t>((end_row - first_row) * parameters.width);
      T* const own = map + (image * cells + first_cell) * channels;
      F* target;
      if constexpr (std::is_same_v<T, F>) {
        target = own;
      } else {
        sums.resize(own_cells * channels);
        target = sums.data();
      }
      std::fill_n(target, own_cells * channels, F(0));
      for (int64_t window = 0; window < windows; ++window) {
        const Reach& reach = reaches[task / bands * windows + window];
        if (reach.begin >= end_row || reach.end <= first_row) continue;
        const int64_t row = (image * windows + window) * row_size;
        AddRow(x + row, argmax + row, row_size, channels, first_cell, own_cells, target);
      }
      if constexpr (!std::is_same_v<T, F>) {
        std::transform(sums.begin(), sums.end(), own, [](F sum) { return FromFloat<T>(sum); });
      }
    }
  });
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
