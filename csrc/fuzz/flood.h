// For the targets of ops on masks: components by the plainest way there is, and maps to have some.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "fuzz/input.h"

namespace kvision::fuzz {

// Numbers from 1 for the pixels of an image for which `inside(pixel)`, each by a flood from its
// component's first.
template <typename Inside>
std::vector<int32_t> Flood(int64_t height, int64_t width, int64_t connectivity, Inside&& inside) {
  std::vector<int32_t> labels(height * width);
  std::vector<int64_t> flood;
  int32_t count = 0;
  for (int64_t start = 0; start < height * width; ++start) {
    if (!inside(start) || labels[start] != 0) continue;
    labels[start] = ++count;
    flood.push_back(start);
    while (!flood.empty()) {
      const int64_t y = flood.back() / width, x = flood.back() % width;
      flood.pop_back();
      for (int64_t v = y - 1; v <= y + 1; ++v) {
        for (int64_t u = x - 1; u <= x + 1; ++u) {
          if (v < 0 || v >= height || u < 0 || u >= width) continue;
          if (connectivity == 4 && v != y && u != x) continue;
          const int64_t next = v * width + u;
          if (!inside(next) || labels[next] != 0) continue;
          labels[next] = count;
          flood.push_back(next);
        }
      }
    }
  }
  return labels;
}

// Fills images with numbers below `number`, in patches of one size; one of them is more frequent.
template <typename T>
void DrawPatches(Input& input, int64_t width, int64_t number, const Buffer<T>& images) {
  const int64_t high = input.OneOf({1, 1, 2, 5}), wide = input.OneOf({1, 1, 2, 7, 64});
  const double frequent = input.OneOf({0.0, 0.3, 0.9, 0.99});
  const int64_t which = input.Between(0, number - 1);
  std::map<std::pair<int64_t, int64_t>, T> patches;
  for (int64_t i = 0; i < images.size(); ++i) {
    const auto patch = std::pair(i / width / high, i % width / wide);
    if (patches.count(patch) == 0) {
      const int64_t value = input.Unit() < frequent ? which : input.Between(0, number - 1);
      patches[patch] = static_cast<T>(value);
    }
    images[i] = patches[patch];
  }
}

}  // namespace kvision::fuzz
