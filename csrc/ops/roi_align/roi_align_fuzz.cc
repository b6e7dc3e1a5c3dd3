// RoiAlignForward and RoiAlignBackward against the matrix of weights that their contract defines,
// for all element types, and the same bits on every number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/roi_align/roi_align.h"

namespace kvision::fuzz {
namespace {

template <typename T>
struct Case {
  RoiAlignParameters parameters;
  std::vector<Buffer<T>> maps;
  std::vector<RoiAlignLevel<const T>> levels;
  std::optional<Buffer<RoiAlignBox<T>>> boxes;
  std::vector<int32_t> box_levels;
  std::optional<Buffer<T>> output_gradient;

  explicit Case(Input& input) {
    const bool wide = input.OneIn(8);  // in channels, and then small in all else
    const bool tame = input.OneIn(2);
    parameters.batch = input.Size(2, 3);
    parameters.num_boxes = input.Size(4, wide ? 4 : 24);
    parameters.channels = wide ? input.Between(0, 600) : input.Size(9, 40);
    parameters.output_height = 1 + input.Size(3, 8);
    parameters.output_width = 1 + input.Size(3, 8);
    parameters.sampling_ratio = input.OneOf<int64_t>({0, 0, 0, 1, 2, 3, input.Between(0, 128)});
    parameters.aligned = input.OneIn(2);
    const int64_t num_levels = input.Between(1, 3);
    for (int64_t level = 0; level < num_levels; ++level) {
      const int64_t height = input.Size(wide ? 6 : 12, wide ? 6 : 40);
      const int64_t width = input.Size(wide ? 6 : 12, wide ? 6 : 40);
      const double scale = input.OneOf({1.0, 0.5, 0.25, 0.03125, input.Unit() + 1e-9});
      maps.push_back(
          DrawNumbers<T>(input, parameters.batch * height * width * parameters.channels, 4, tame));
      levels.push_back({maps.back().data(), height, width, scale});
    }
    boxes.emplace(DrawBoxes<RoiAlignBox<T>>(
        input, num_boxes(), input.OneOf({8.0, 30.0, 30.0, 100.0, 1000.0, 1e7, 1e30})));
    for (int64_t box = 0; box < num_boxes(); ++box) {
      const bool wild = input.OneIn(20);
      const int64_t level = input.Between(0, num_levels - 1);
      box_levels.push_back(static_cast<int32_t>(wild ? input.Word() : level));
    }
    output_gradient.emplace(DrawNumbers<T>(input, num_boxes() * box_size(), 1, tame));
  }

  int64_t num_boxes() const { return parameters.batch * parameters.num_boxes; }
  int64_t num_bins() const { return parameters.output_height * parameters.output_width; }
  int64_t box_size() const { return num_bins() * parameters.channels; }
};

template <typename T>
struct Results {
  Buffer<T> output;
  std::vector<Buffer<T>> gradients;

  Results(Input& input, const Case<T>& c, int threads)
      : output(input, c.num_boxes() * c.box_size()) {
    const auto num_levels = static_cast<int64_t>(c.levels.size());
    RoiAlignForward<T>(c.parameters, {c.levels.data(), num_levels}, c.boxes->data(),
                       c.box_levels.data(), output.data(), ThreadsFor(threads));
    std::vector<RoiAlignLevel<T>> level_gradients;
    for (int64_t i = 0; i < num_levels; ++i) {
      const RoiAlignLevel<const T>& level = c.levels[i];
      gradients.emplace_back(input, c.maps[i].size());
      level_gradients.push_back(
          {gradients.back().data(), level.height, level.width, level.spatial_scale});
    }
    RoiAlignBackward<T>(c.parameters, c.output_gradient->data(), c.boxes->data(),
                        c.box_levels.data(), {level_gradients.data(), num_levels},
                        ThreadsFor(threads));
  }
};

// What the cells give to the bins along one axis, in double. Where a bin has too many samples to go
// through one by one, this is not known.
struct Axis {
  struct Tap {
    int64_t bin, cell;
    double weight;
  };
  std::vector<Tap> taps;
  bool known;
  double roundings;  // behind a weight of the kernel's
};

template <typename F>
Axis MakeAxis(F low, F extent, int64_t bins, int64_t sampling_ratio, int64_t cells) {
  constexpr F kMostSamples = 4096;
  const F bin_extent = extent / static_cast<F>(bins);
  const F count = sampling_ratio > 0 ? static_cast<F>(sampling_ratio) : std::ceil(bin_extent);
  Axis axis = {{}, count <= kMostSamples, 4 + 2.0 * std::max(count, F(0))};
  for (int64_t bin = 0; bin < bins && cells > 0 && axis.known; ++bin) {
    std::vector<double> weights(cells + 1);
    for (int64_t i = 0; i < count; ++i) {
      const F position = low + static_cast<F>(bin) * bin_extent +
                         (static_cast<F>(i) + F(0.5)) * bin_extent / count;
      if (!(position >= -1 && position <= static_cast<F>(cells))) continue;
      const double inside = std::clamp<double>(position, 0, static_cast<double>(cells - 1));
      const auto cell = static_cast<int64_t>(inside);
      weights[cell] += (1 - (inside - static_cast<double>(cell))) / count;
      weights[cell + 1] += (inside - static_cast<double>(cell)) / count;
    }
    for (int64_t cell = 0; cell < cells; ++cell) {
      if (weights[cell] > 0) axis.taps.push_back({bin, cell, weights[cell]});
    }
  }
  return axis;
}

// The axes, rows first, of a box that reads something.
template <typename T>
std::optional<std::pair<Axis, Axis>> AxesOf(const Case<T>& c, int64_t box) {
  using F = RoiAlignBox<T>;
  const int32_t index = c.box_levels[box];
  if (index < 0 || index >= static_cast<int64_t>(c.levels.size())) return {};
  const RoiAlignLevel<const T>& level = c.levels[index];
  F corners[4];
  for (int k = 0; k < 4; ++k) {
    corners[k] = (*c.boxes)[4 * box + k] * static_cast<F>(level.spatial_scale) -
                 (c.parameters.aligned ? F(0.5) : F(0));
  }
  F width = corners[2] - corners[0], height = corners[3] - corners[1];
  for (const F number : {corners[0], corners[1], width, height}) {
    if (!std::isfinite(number)) return {};
  }
  if (!c.parameters.aligned) {
    width = std::max(width, F(1));
    height = std::max(height, F(1));
  }
  const int64_t ratio = c.parameters.sampling_ratio;
  return std::make_pair(
      MakeAxis(corners[1], height, c.parameters.output_height, ratio, level.height),
      MakeAxis(corners[0], width, c.parameters.output_width, ratio, level.width));
}

// A sum in double, and what bounds the rounding of the kernel's: the magnitudes of its terms.
struct Sum {
  double value = 0, magnitude = 0;
  bool finite_terms = true;

  void Add(double weight, double term) {
    value += weight * term;
    magnitude += std::abs(weight * term);
    finite_terms = finite_terms && std::isfinite(term);
  }

  // Whether `stored`, computed with so many roundings, is this sum. One that comes close to the end
  // of its type may have overflowed on the way.
  template <typename T>
  bool Is(T stored, double roundings) const {
    using Limits = std::numeric_limits<RoiAlignBox<T>>;
    const double got = ToFloat(stored);
    if (!finite_terms) return !std::isfinite(got);
    constexpr bool kHalf = std::is_same_v<T, Half>, kBFloat16 = std::is_same_v<T, BFloat16>;
    if (!(magnitude < 0.5 * (kHalf ? 65504 : Limits::max()))) return true;
    const double in_sums = roundings * (Limits::epsilon() * magnitude + Limits::min());
    const double in_storage = kHalf       ? 0x1p-11 * std::abs(value) + 0x1p-24
                              : kBFloat16 ? 0x1p-8 * std::abs(value)
                                          : 0;
    return std::abs(got - value) <= in_sums + in_storage;
  }
};

template <typename T>
void CompareWithDefinition(const Case<T>& c, const Results<T>& results) {
  const int64_t channels = c.parameters.channels;
  std::vector<std::vector<Sum>> gradients;
  for (const Buffer<T>& map : c.maps) gradients.emplace_back(map.size());
  double most_roundings = 8;
  bool is_complete = true;
  for (int64_t box = 0; box < c.num_boxes(); ++box) {
    std::vector<Sum> output(c.box_size());
    const auto axes = AxesOf(c, box);
    double roundings = 0;
    if (axes) {
      const auto& [rows, columns] = *axes;
      if (!rows.known || !columns.known) {
        is_complete = false;
        continue;
      }
      const int32_t index = c.box_levels[box];
      const RoiAlignLevel<const T>& level = c.levels[index];
      const T* output_gradient = c.output_gradient->data() + box * c.box_size();
      const int64_t first_row = box / c.parameters.num_boxes * level.height;
      roundings = 16 + rows.roundings + columns.roundings;
      most_roundings = std::max(most_roundings, roundings);
      for (const Axis::Tap& row : rows.taps) {
        for (const Axis::Tap& column : columns.taps) {
          const double weight = row.weight * column.weight;
          const int64_t bin = row.bin * c.parameters.output_width + column.bin;
          const int64_t cell = (first_row + row.cell) * level.width + column.cell;
          for (int64_t channel = 0; channel < channels; ++channel) {
            const int64_t to = bin * channels + channel, from = cell * channels + channel;
            output[to].Add(weight, ToFloat(level.data[from]));
            gradients[index][from].Add(weight, ToFloat(output_gradient[to]));
          }
        }
      }
      roundings += static_cast<double>(level.height * level.width);
    }
    for (int64_t i = 0; i < c.box_size(); ++i) {
      Require(output[i].Is(results.output[box * c.box_size() + i], roundings),
              "forward: the mean of the samples");
    }
  }
  if (!is_complete) return;
  most_roundings += static_cast<double>(c.parameters.num_boxes * c.num_bins());
  for (size_t level = 0; level < gradients.size(); ++level) {
    for (size_t i = 0; i < gradients[level].size(); ++i) {
      Require(gradients[level][i].Is(results.gradients[level][i], most_roundings),
              "backward: the transpose of forward");
    }
  }
}

template <typename T>
void Run(Input& input) {
  const Case<T> c(input);
  const Results<T> results(input, c, 1);
  const Results<T> threaded(input, c, input.OneOf({2, 3, 7}));
  Require(results.output.SameBits(threaded.output), "forward: the same bits on all threads");
  for (size_t level = 0; level < c.maps.size(); ++level) {
    Require(results.gradients[level].SameBits(threaded.gradients[level]),
            "backward: the same bits on all threads");
  }
  CompareWithDefinition(c, results);
}

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  input.OneOf<void (*)(fuzz::Input&)>(
      {fuzz::Run<float>, fuzz::Run<double>, fuzz::Run<Half>, fuzz::Run<BFloat16>})(input);
  return 0;
}
