// Sorting of 64-bit keys whose low halves already ascend.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace kvision {

// Sorts `keys`, given in ascending order of their low 32 bits, by all 64. `buffer` is working
// memory.
inline void SortByHighHalf(std::vector<uint64_t>& keys, std::vector<uint64_t>& buffer) {
  constexpr size_t kFewKeys = 256;
  constexpr int kDigitBits = 11;
  constexpr size_t kDigits = size_t{1} << kDigitBits;
  constexpr int kPasses = 3;  // 33 bits, the 32 high ones among them
  if (keys.size() <= kFewKeys) {
    std::sort(keys.begin(), keys.end());
    return;
  }
  std::array<std::array<uint32_t, kDigits>, kPasses> counts{};
  const auto digit = [](uint64_t key, int pass) {
    return (key >> (32 + pass * kDigitBits)) & (kDigits - 1);
  };
  for (const uint64_t key : keys) {
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][digit(key, pass)];
  }
  buffer.resize(keys.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    std::array<uint32_t, kDigits>& offsets = counts[pass];
    if (offsets[digit(keys[0], pass)] == keys.size()) continue;
    uint32_t total = 0;
    for (uint32_t& offset : offsets) total += std::exchange(offset, total);
    for (const uint64_t key : keys) buffer[offsets[digit(key, pass)]++] = key;
    keys.swap(buffer);
  }
}

}  // namespace kvision
