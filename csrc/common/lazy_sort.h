// Sorting of 64-bit keys by their high halves, all at once or as far as it turns out to be needed.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/span.h"

namespace kvision {

// Sorts `keys`, whose low halves ascend, by all 64 bits. `buffer` has room for as many.
template <int kDigitBits>
void RadixSortByHighHalf(uint64_t* keys, size_t size, uint64_t* buffer) {
  constexpr int kPasses = (32 + kDigitBits - 1) / kDigitBits;
  constexpr uint64_t kDigits = uint64_t{1} << kDigitBits;
  std::array<std::array<uint32_t, kDigits>, kPasses> counts{};
  const auto digit = [](uint64_t key, int pass) {
    return key >> (32 + kDigitBits * pass) & (kDigits - 1);
  };
  for (size_t i = 0; i < size; ++i) {
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][digit(keys[i], pass)];
  }
  uint64_t* from = keys;
  uint64_t* to = buffer;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::array<uint32_t, kDigits>& offsets = counts[pass];
    if (offsets[digit(keys[0], pass)] == size) continue;
    uint32_t total = 0;
    for (uint32_t& offset : offsets) total += std::exchange(offset, total);
    for (size_t i = 0; i < size; ++i) to[offsets[digit(from[i], pass)]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys) std::copy(from, from + size, keys);
}

inline void SortByHighHalf(uint64_t* keys, size_t size, uint64_t* buffer) {
  if (size <= 64) {
    std::sort(keys, keys + size);
  } else if (size <= 1024) {
    RadixSortByHighHalf<8>(keys, size, buffer);
  } else {
    RadixSortByHighHalf<11>(keys, size, buffer);
  }
}

// Hands out keys in ascending order and sorts no more of them than that takes.
class LazySort {
 public:
  // `keys` has ascending low halves and outlives this object, as does `buffer`, working memory.
  // About `first` keys are expected to be taken.
  LazySort(std::vector<uint64_t>& keys, std::vector<uint64_t>& buffer, size_t first)
      : keys_(keys), buffer_(buffer), wanted_(std::max<size_t>(first, 64)) {
    buffer_.resize(keys.size());
  }

  // The next keys, as many as were worth sorting together; none at the end.
  Span<const uint64_t> Next() {
    uint64_t* keys = keys_.data() + sorted_;
    size_t size = keys_.size() - sorted_;
    if (size > 2 * wanted_) size = Separate(keys, size);
    SortByHighHalf(keys, size, buffer_.data());
    sorted_ += size;
    wanted_ *= 4;
    return {keys, static_cast<int64_t>(size)};
  }

 private:
  // Moves the keys with the lowest leading bits, at least `wanted_`, to the front. Order is kept.
  size_t Separate(uint64_t* keys, size_t size) {
    constexpr int kShift = 64 - 11;
    std::array<uint32_t, 1 << 11> counts{};
    for (size_t i = 0; i < size; ++i) ++counts[keys[i] >> kShift];
    size_t num_front = 0;
    uint64_t last = 0;
    while ((num_front += counts[last]) < wanted_) ++last;
    uint64_t* front = keys;
    uint64_t* rest = buffer_.data();
    for (size_t i = 0; i < size; ++i) {
      const uint64_t key = keys[i];
      const bool in_front = key >> kShift <= last;
      *front = key;  // overwrites what has been read
      *rest = key;
      front += in_front;
      rest += !in_front;
    }
    std::copy(buffer_.data(), rest, front);
    return num_front;
  }

  std::vector<uint64_t>& keys_;
  std::vector<uint64_t>& buffer_;
  size_t wanted_, sorted_ = 0;
};

}  // namespace kvision
