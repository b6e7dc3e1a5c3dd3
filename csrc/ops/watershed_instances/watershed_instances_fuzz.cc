// WatershedInstancesCpu against its steps one by one, every pixel of every window painted, and the
// same bits on every number of threads.

#include <algorithm>
#include <limits>
#include <vector>

#include "common/threads.h"
#include "fuzz/flood.h"
#include "fuzz/input.h"
#include "ops/watershed_instances/watershed_instances.h"

namespace kvision::fuzz {
namespace {

// How many pixels each label has; none of it, those of 0.
std::vector<int64_t> Areas(const std::vector<int32_t>& labels) {
  std::vector<int64_t> areas(labels.size() + 1);
  for (const int32_t label : labels) ++areas[label];
  return areas;
}

// The instances of one image.
std::vector<int32_t> Defined(const WatershedInstancesParameters& p, const int32_t* energy,
                             const int32_t* semantic, const bool* grow_within) {
  const int64_t size = p.height * p.width;
  std::vector<int32_t> result(size);
  int32_t before = 0;
  for (size_t k = 0; k < p.cut.size(); ++k) {
    std::vector<bool> mask(size);
    bool any = false;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t its_class = semantic == nullptr ? 1 : semantic[i];
      mask[i] = energy[i] > p.cut[k] && its_class == static_cast<int64_t>(k) + 1;
    }
    const auto is_set = [&mask](int64_t i) { return bool{mask[i]}; };
    const auto is_unset = [&mask](int64_t i) { return !mask[i]; };
    std::vector<int32_t> labels = Flood(p.height, p.width, 4, is_set);
    std::vector<int64_t> areas = Areas(labels);
    for (int64_t i = 0; i < size; ++i) {
      mask[i] = mask[i] && areas[labels[i]] >= p.min_area[k];
      any = any || mask[i];
    }
    labels = Flood(p.height, p.width, p.connectivity == 8 ? 4 : 8, is_unset);
    areas = Areas(labels);
    for (int64_t i = 0; i < size; ++i) {
      mask[i] = mask[i] || (any && areas[labels[i]] < p.fill_holes);
    }
    labels = Flood(p.height, p.width, p.connectivity, is_set);
    // Later labels are greater.
    std::vector<int32_t> grown = labels;
    for (int64_t i = 0; i < size; ++i) {
      if (labels[i] == 0) continue;
      const int64_t y = i / p.width, x = i % p.width, reach = p.grow[k];
      const int64_t bottom = std::min(y + reach, p.height - 1);
      const int64_t right = std::min(x + reach, p.width - 1);
      for (int64_t v = std::max<int64_t>(y - reach, 0); v <= bottom; ++v) {
        for (int64_t u = std::max<int64_t>(x - reach, 0); u <= right; ++u) {
          const int64_t at = v * p.width + u;
          if (grow_within == nullptr || grow_within[at]) {
            grown[at] = std::max(grown[at], labels[i]);
          }
        }
      }
    }
    for (int64_t i = 0; i < size; ++i) {
      if (grown[i] > 0) result[i] = before + grown[i];
    }
    before += labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end());
  }
  std::vector<int32_t> renamed(before + 1);
  int32_t count = 0;
  for (int32_t& id : result) {
    if (id == 0) continue;
    if (renamed[id] == 0) renamed[id] = ++count;
    id = renamed[id];
  }
  return result;
}

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  WatershedInstancesParameters parameters{};
  parameters.batch = input.Size(2, 3);
  parameters.height = input.Size(16, 60);
  parameters.width = input.Size(40, 150);
  parameters.connectivity = input.OneOf({4, 8});
  parameters.fill_holes = input.OneOf<int64_t>({0, 1, 2, 5, 64, kMost});
  const int64_t classes = input.Between(0, 3);
  for (int64_t k = 0; k < classes; ++k) {
    parameters.cut.push_back(input.OneOf<int64_t>({0, 0, 1, 2, -1, kMost, -kMost - 1}));
    parameters.min_area.push_back(input.OneOf<int64_t>({0, 1, 2, 3, 9, 50, kMost}));
    parameters.grow.push_back(input.OneOf<int64_t>({0, 0, 1, 2, 3, 8}));
  }
  const int64_t pixels = parameters.height * parameters.width;
  fuzz::Buffer<int32_t> energy(input, parameters.batch * pixels);
  fuzz::Buffer<int32_t> semantic(input, energy.size());
  fuzz::Buffer<bool> grow_within(input, energy.size());
  fuzz::DrawPatches(input, parameters.width, 4, energy);
  fuzz::DrawPatches(input, parameters.width, 4, semantic);
  fuzz::DrawPatches(input, parameters.width, 2, grow_within);
  const bool has_classes = input.OneIn(2), is_bounded = input.OneIn(2);
  const int32_t* const its_classes = has_classes ? semantic.data() : nullptr;
  const bool* const within = is_bounded ? grow_within.data() : nullptr;

  fuzz::Buffer<int32_t> instances(input, energy.size()), threaded(input, energy.size());
  WatershedInstancesCpu(parameters, energy.data(), its_classes, within, instances.data(),
                        ThreadsFor(1));
  WatershedInstancesCpu(parameters, energy.data(), its_classes, within, threaded.data(),
                        ThreadsFor(input.OneOf({2, 3, 7})));
  fuzz::Require(instances.SameBits(threaded), "the same bits on all threads");
  if (!has_classes && parameters.cut.size() > 1) {
    for (auto* numbers : {&parameters.cut, &parameters.min_area, &parameters.grow}) {
      numbers->resize(1);
    }
  }
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const int64_t start = image * pixels;
    const std::vector<int32_t> defined = fuzz::Defined(parameters, energy.data() + start,
                                                       has_classes ? its_classes + start : nullptr,
                                                       is_bounded ? within + start : nullptr);
    for (int64_t i = 0; i < pixels; ++i) {
      fuzz::Require(instances[start + i] == defined[i], "the instances");
    }
  }
  return 0;
}
