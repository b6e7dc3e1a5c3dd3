// BorderWeightMapCpu against the formula, with the distance to every pixel of every border, and the
// same bits on every number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/border_weight_map/border_weight_map.h"

namespace kvision::fuzz {
namespace {

// Label maps: noise, patches of one size, or rectangles over one another.
Buffer<int32_t> DrawInstances(Input& input, const BorderWeightMapParameters& p) {
  Buffer<int32_t> instances(input, p.batch * p.height * p.width);
  std::fill(instances.begin(), instances.end(), 0);
  const int64_t ids = input.OneOf({1, 2, 3, 8});
  const bool huge = input.OneIn(4);
  const auto draw_id = [&] {
    const auto id = static_cast<int32_t>(input.Between(-1, ids));
    if (!huge) return id;
    return id > 0 ? std::numeric_limits<int32_t>::max() - id
                  : std::numeric_limits<int32_t>::min() - id;
  };
  const int64_t side = input.OneOf({1, 3, 7});
  const int64_t rectangles = input.OneIn(2) ? input.Between(0, 12) : -1;
  for (int64_t image = 0; image < p.batch; ++image) {
    int32_t* const pixels = instances.data() + image * p.height * p.width;
    if (rectangles < 0) {
      std::map<std::pair<int64_t, int64_t>, int32_t> patches;
      for (int64_t i = 0; i < p.height * p.width; ++i) {
        const auto patch = std::pair(i / p.width / side, i % p.width / side);
        if (patches.count(patch) == 0) patches[patch] = draw_id();
        pixels[i] = patches[patch];
      }
    }
    for (int64_t i = 0; i < rectangles && p.height * p.width > 0; ++i) {
      const int64_t top = input.Between(0, p.height - 1), left = input.Between(0, p.width - 1);
      const int64_t bottom = std::min(p.height, top + input.Size(6, 60));
      const int64_t right = std::min(p.width, left + input.Size(6, 60));
      const int32_t id = draw_id();
      for (int64_t y = top; y < bottom; ++y) {
        for (int64_t x = left; x < right; ++x) pixels[y * p.width + x] = id;
      }
    }
  }
  return instances;
}

void Compare(const BorderWeightMapParameters& p, const int32_t* image, const float* output) {
  std::map<int32_t, std::vector<std::pair<int64_t, int64_t>>> borders;
  for (int64_t y = 0; y < p.height; ++y) {
    for (int64_t x = 0; x < p.width; ++x) {
      const int32_t id = image[y * p.width + x];
      bool on_border = false;
      for (const auto& [v, u] : {std::pair(y - 1, x), {y + 1, x}, {y, x - 1}, {y, x + 1}}) {
        const bool inside = v >= 0 && v < p.height && u >= 0 && u < p.width;
        on_border = on_border || (inside && image[v * p.width + u] != id);
      }
      if (on_border && id > 0) borders[id].emplace_back(y, x);
    }
  }
  for (int64_t y = 0; y < p.height; ++y) {
    for (int64_t x = 0; x < p.width; ++x) {
      std::vector<double> distances;
      for (const auto& [id, border] : borders) {
        int64_t least = std::numeric_limits<int64_t>::max();
        for (const auto& [v, u] : border) {
          least = std::min(least, (v - y) * (v - y) + (u - x) * (u - x));
        }
        distances.push_back(std::sqrt(static_cast<double>(least)));
      }
      std::sort(distances.begin(), distances.end());
      double weight = image[y * p.width + x] > 0 ? p.foreground_weight : p.background_weight;
      if (distances.size() > 1) {
        const double root = (distances[0] + distances[1]) / (std::sqrt(2.0) * double{p.sigma});
        weight += p.border_weight * std::exp(-root * root);
      }
      // An exponent of up to 87 has a few roundings, and is the last; a weight may be subnormal.
      const double error = std::abs(output[y * p.width + x] - weight);
      Require(error <= 5e-5 * weight + 2e-38 * p.border_weight + 0x1p-148, "the weight");
    }
  }
}

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  BorderWeightMapParameters parameters{};
  parameters.batch = input.Size(2, 3);
  parameters.height = input.Size(20, 90);
  parameters.width = input.Size(40, 150);
  const auto weight = [&input] {
    return input.OneOf({0.0f, 1.0f, 1.0f, static_cast<float>(input.Unit()), 1e-30f, 1e30f});
  };
  parameters.background_weight = weight();
  parameters.foreground_weight = weight();
  parameters.border_weight = input.OneIn(2) ? 10.0f : weight();
  const auto any = static_cast<float>(60 * input.Unit()) + 0x1p-100f;
  parameters.sigma = input.OneOf({5.0f, 5.0f, any, any, 0x1p-149f, 3e38f});
  fuzz::Require(CheckBorderWeightMap(parameters).empty(), "the checks let these numbers through");
  const auto instances = fuzz::DrawInstances(input, parameters);

  fuzz::Buffer<float> output(input, instances.size()), threaded(input, instances.size());
  BorderWeightMapCpu(parameters, instances.data(), output.data(), ThreadsFor(1));
  BorderWeightMapCpu(parameters, instances.data(), threaded.data(),
                     ThreadsFor(input.OneOf({2, 3, 7})));
  fuzz::Require(output.SameBits(threaded), "the same bits on all threads");
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const int64_t start = image * parameters.height * parameters.width;
    fuzz::Compare(parameters, instances.data() + start, output.data() + start);
  }
  return 0;
}
