// WatershedTargetsCpu against its contract, with the distance to every pixel outside, and the same
// bits on every number of threads and without the other targets.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/watershed_targets/watershed_targets.h"

namespace kvision::fuzz {
namespace {

// Label maps: one id, noise, patches of one size, or rectangles over one another.
Buffer<int32_t> DrawInstances(Input& input, const WatershedTargetsParameters& p) {
  Buffer<int32_t> instances(input, p.batch * p.height * p.width);
  const int64_t ids = input.OneOf({1, 2, 3, 8});
  const bool huge = input.OneIn(4);
  const auto draw_id = [&] {
    const auto id = static_cast<int32_t>(input.Between(-1, ids));
    if (!huge) return id;
    return id > 0 ? std::numeric_limits<int32_t>::max() - id
                  : std::numeric_limits<int32_t>::min() - id;
  };
  const int64_t side = input.OneOf({1, 3, 7, 1000});
  for (int64_t image = 0; image < p.batch; ++image) {
    int32_t* const pixels = instances.data() + image * p.height * p.width;
    std::map<int64_t, int32_t> patches;
    for (int64_t i = 0; i < p.height * p.width; ++i) {
      const int64_t patch = i / p.width / side * p.width + i % p.width / side;
      if (patches.count(patch) == 0) patches[patch] = draw_id();
      pixels[i] = patches[patch];
    }
    const int64_t rectangles = p.height * p.width > 0 && input.OneIn(2) ? input.Between(1, 12) : 0;
    for (int64_t i = 0; i < rectangles; ++i) {
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

// One image by the contract, with a frame around it where the border is outside.
class Defined {
 public:
  Defined(const WatershedTargetsParameters& parameters, const int32_t* image)
      : p_(parameters), image_(image) {
    const int64_t size = p_.height * p_.width;
    framed_ = p_.image_border_is_outside ||
              std::all_of(image, image + size, [image](int32_t id) { return id == *image; });
    for (int64_t i = 0; i < size; ++i) ++areas_[image[i]];
    for (int64_t i = 0; i < size; ++i) squares_.push_back(Square(i / p_.width, i % p_.width));
  }

  void Compare(const WatershedTargets& found) const {
    for (int64_t i = 0; i < p_.height * p_.width; ++i) {
      const bool taught = image_[i] > 0 && areas_.at(image_[i]) >= p_.min_area;
      const float root = std::sqrt(static_cast<float>(squares_[i]));
      const float distance = taught ? root : 0.0f;
      Require(found.distance[i] == distance, "the distance");
      int32_t level = 0;
      for (int64_t k = 1; k < p_.level_edges.size; ++k) level += distance > p_.level_edges[k];
      Require(found.level[i] == (taught ? level : 0), "the level");
      const double weight = taught ? 200 / std::sqrt(static_cast<double>(areas_.at(image_[i]))) : 0;
      Require(std::abs(found.weight[i] - weight) <= 1e-6 * weight, "the weight");
      CompareDirection(i / p_.width, i % p_.width, taught, found.direction + 2 * i);
    }
  }

 private:
  bool Inside(int64_t y, int64_t x) const {
    return y >= 0 && y < p_.height && x >= 0 && x < p_.width;
  }

  int64_t Square(int64_t y, int64_t x) const {
    const int32_t id = image_[y * p_.width + x];
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t v = -1; v <= p_.height && id > 0; ++v) {
      for (int64_t u = -1; u <= p_.width; ++u) {
        if (Inside(v, u) ? image_[v * p_.width + u] != id : framed_) {
          least = std::min(least, (v - y) * (v - y) + (u - x) * (u - x));
        }
      }
    }
    return least;
  }

  void CompareDirection(int64_t y, int64_t x, bool taught, const float* found) const {
    const int32_t id = image_[y * p_.width + x];
    double sums[2] = {};
    for (int64_t v = -1; v <= 1; ++v) {
      for (int64_t u = -1; u <= 1; ++u) {
        if (framed_ && !Inside(y + v, x + u)) continue;
        const int64_t near = std::clamp<int64_t>(y + v, 0, p_.height - 1) * p_.width +
                             std::clamp<int64_t>(x + u, 0, p_.width - 1);
        const double own = image_[near] == id && taught ? std::sqrt(double(squares_[near])) : 0;
        sums[0] += static_cast<double>(u * (v == 0 ? 2 : 1)) * own;
        sums[1] += static_cast<double>(v * (u == 0 ? 2 : 1)) * own;
      }
    }
    const double length = std::hypot(sums[0], sums[1]);
    const double distance = std::sqrt(static_cast<double>(taught ? squares_[y * p_.width + x] : 0));
    if (length <= 0x1p-22 * distance) {
      Require(found[0] == 0 && found[1] == 0, "no direction on a ridge");
    } else if (length > 0x1p-18 * distance) {
      // The sums' rounding turns a short vector farther.
      const double limit = 1e-6 + 0x1p-20 * distance / length;
      for (int i = 0; i < 2; ++i) {
        Require(std::abs(found[i] - sums[i] / length) <= limit, "the direction");
      }
    }
  }

  const WatershedTargetsParameters& p_;
  const int32_t* image_;
  bool framed_;
  std::map<int32_t, int64_t> areas_;
  std::vector<int64_t> squares_;
};

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  WatershedTargetsParameters parameters{};
  parameters.batch = input.Size(2, 3);
  parameters.height = input.Size(20, 70);
  // Now and then wide and low: runs that are long enough for the other search.
  const bool wide = input.OneIn(6);
  if (wide) parameters.height = std::min<int64_t>(parameters.height, 6);
  parameters.width = wide ? input.Between(100, 400) : input.Size(40, 110);
  parameters.image_border_is_outside = input.OneIn(2);
  parameters.min_area = input.OneOf<int64_t>({0, 0, 1, 10, int64_t{1} << 62});
  const float edges[] = {-1.0f, 0.0f, 1.0f, 1.5f, 4.0f, 3e38f};
  const int64_t first = input.Between(0, 5);
  parameters.level_edges = {edges + first, input.Between(1, 6 - first)};
  fuzz::Require(CheckLevelEdges(parameters.level_edges).empty(), "the checks let these through");
  const auto instances = fuzz::DrawInstances(input, parameters);

  const int64_t pixels = instances.size();
  struct Targets {
    Targets(fuzz::Input& input, int64_t pixels)
        : distance(input, pixels),
          direction(input, 2 * pixels),
          weight(input, pixels),
          level(input, pixels) {}
    WatershedTargets At(int64_t pixel) const {
      return {distance.data() + pixel, direction.data() + 2 * pixel, level.data() + pixel,
              weight.data() + pixel};
    }
    bool SameBits(const Targets& other) const {
      return distance.SameBits(other.distance) && direction.SameBits(other.direction) &&
             weight.SameBits(other.weight) && level.SameBits(other.level);
    }
    fuzz::Buffer<float> distance, direction, weight;
    fuzz::Buffer<int32_t> level;
  };
  const Targets targets(input, pixels), threaded(input, pixels);
  WatershedTargetsCpu(parameters, instances.data(), targets.At(0), ThreadsFor(1));
  WatershedTargetsCpu(parameters, instances.data(), threaded.At(0),
                      ThreadsFor(input.OneOf({2, 3, 7})));
  fuzz::Require(targets.SameBits(threaded), "the same bits on all threads");
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const int64_t start = image * parameters.height * parameters.width;
    fuzz::Defined(parameters, instances.data() + start).Compare(targets.At(start));
  }
  parameters.min_area = 0;
  WatershedTargetsCpu(parameters, instances.data(), targets.At(0), ThreadsFor(1));
  WatershedTargetsCpu(parameters, instances.data(), {threaded.distance.data()}, ThreadsFor(1));
  fuzz::Require(targets.distance.SameBits(threaded.distance), "the same distance alone");
  return 0;
}
