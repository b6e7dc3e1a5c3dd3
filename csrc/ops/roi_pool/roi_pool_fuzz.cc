// RoiPoolForward and RoiPoolBackward against their contract, cell by cell, for all element types,
// and the same bits on every number of threads.

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/roi_pool/roi_pool.h"

namespace kvision::fuzz {
namespace {

template <typename T>
struct Case {
  using F = RoiPoolBox<T>;

  RoiPoolParameters parameters;
  std::optional<Buffer<T>> features;
  std::optional<Buffer<F>> boxes;
  std::optional<Buffer<T>> output_gradient;

  explicit Case(Input& input) {
    const bool wide = input.OneIn(8);  // in channels, and then small in all else
    parameters.batch = input.Size(2, 3);
    parameters.num_boxes = input.Size(4, wide ? 4 : 24);
    parameters.channels = wide ? input.Between(0, 600) : input.Size(9, 40);
    parameters.height = input.Size(wide ? 6 : 12, wide ? 6 : 40);
    parameters.width = input.Size(wide ? 6 : 12, wide ? 6 : 40);
    parameters.output_height = 1 + input.Size(3, 8);
    parameters.output_width = 1 + input.Size(3, 8);
    parameters.spatial_scale = input.OneOf({1.0, 0.5, 0.25, 0.03125, input.Unit() + 1e-9, 1e300});
    features.emplace(
        DrawNumbers<T>(input, parameters.batch * parameters.Cells() * parameters.channels, 4));
    boxes.emplace(DrawBoxes<F>(input, parameters.batch * parameters.num_boxes,
                               input.OneOf({8.0, 30.0, 30.0, 100.0, 1000.0, 1e7, 1e18, 1e30})));
    output_gradient.emplace(
        DrawNumbers<T>(input, parameters.batch * parameters.Bins() * parameters.channels, 1));
  }
};

template <typename T>
struct Results {
  Buffer<T> output;
  Buffer<int32_t> argmax;
  Buffer<T> gradient;

  Results(Input& input, const Case<T>& c, int threads)
      : output(input, c.output_gradient->size()),
        argmax(input, c.output_gradient->size()),
        gradient(input, c.features->size()) {
    RoiPoolForward<T>(c.parameters, c.features->data(), c.boxes->data(), output.data(),
                      argmax.data(), ThreadsFor(threads));
    RoiPoolBackward<T>(c.parameters, c.output_gradient->data(), argmax.data(), gradient.data(),
                       ThreadsFor(threads));
  }
};

template <typename T>
bool Same(T a, T b) {
  return ToFloat(a) == ToFloat(b) || (std::isnan(ToFloat(a)) && std::isnan(ToFloat(b)));
}

// The cells of every bin of one axis, each asked whether it lies in the bin. `low` and `high` are a
// box's corners.
template <typename F>
std::vector<std::vector<int64_t>> CellsOfBins(F low, F high, int64_t bins, int64_t size) {
  const F extent = std::fmax(high - low + F(1), F(1));
  std::vector<std::vector<int64_t>> cells(bins);
  for (int64_t bin = 0; bin < bins; ++bin) {
    const F length = extent / static_cast<F>(bins);
    const F begin = std::floor(static_cast<F>(bin) * length) + low;
    const F end = std::ceil(static_cast<F>(bin + 1) * length) + low;
    for (int64_t cell = 0; cell < size; ++cell) {
      if (static_cast<F>(cell) >= begin && static_cast<F>(cell) < end) cells[bin].push_back(cell);
    }
  }
  return cells;
}

template <typename T>
void CompareForward(const Case<T>& c, const Results<T>& results) {
  using F = RoiPoolBox<T>;
  const RoiPoolParameters& p = c.parameters;
  int64_t at = 0;
  for (int64_t box = 0; box < p.batch * p.num_boxes; ++box) {
    F corners[4];
    for (int k = 0; k < 4; ++k) {
      corners[k] = std::round((*c.boxes)[4 * box + k] * static_cast<F>(p.spatial_scale));
    }
    bool finite = std::isfinite(corners[2] - corners[0]) && std::isfinite(corners[3] - corners[1]);
    for (const F corner : corners) finite = finite && std::isfinite(corner);
    const auto rows = CellsOfBins(corners[1], corners[3], p.output_height, finite ? p.height : 0);
    const auto columns = CellsOfBins(corners[0], corners[2], p.output_width, finite ? p.width : 0);
    const int64_t image = box / p.num_boxes * p.Cells();
    for (const auto& bin_rows : rows) {
      for (const auto& bin_columns : columns) {
        for (int64_t channel = 0; channel < p.channels; ++channel, ++at) {
          const auto value_of = [&](int64_t cell) {
            return (*c.features)[(image + cell) * p.channels + channel];
          };
          const auto rank = [&](int64_t cell) {
            const F value = ToFloat(value_of(cell));
            return std::isnan(value) ? -std::numeric_limits<F>::infinity() : value;
          };
          int64_t best = -1;
          for (const int64_t row : bin_rows) {
            for (const int64_t column : bin_columns) {
              const int64_t cell = row * p.width + column;
              if (best < 0 || rank(cell) > rank(best)) best = cell;
            }
          }
          Require(results.argmax[at] == best, "forward: the argmax");
          Require(Same(results.output[at], best < 0 ? T{} : value_of(best)),
                  "forward: the value at the argmax");
        }
      }
    }
  }
}

template <typename T>
void CompareBackward(const Case<T>& c, const Buffer<int32_t>& argmax, const Buffer<T>& gradient) {
  using F = RoiPoolBox<T>;
  const RoiPoolParameters& p = c.parameters;
  std::vector<F> sums(gradient.size());
  for (int64_t at = 0; at < argmax.size(); ++at) {
    if (argmax[at] < 0 || argmax[at] >= p.Cells()) continue;
    const int64_t image = at / (p.Bins() * p.channels) * p.Cells();
    sums[(image + argmax[at]) * p.channels + at % p.channels] += ToFloat((*c.output_gradient)[at]);
  }
  for (int64_t i = 0; i < gradient.size(); ++i) {
    Require(Same(gradient[i], FromFloat<T>(sums[i])), "backward: the sum over the bins");
  }
}

template <typename T>
void Run(Input& input) {
  const Case<T> c(input);
  const Results<T> results(input, c, 1);
  const int threads = input.OneOf({2, 3, 7});
  const Results<T> threaded(input, c, threads);
  Require(results.output.SameBits(threaded.output), "forward: the same bits on all threads");
  Require(results.argmax.SameBits(threaded.argmax), "forward: the same argmax on all threads");
  Require(results.gradient.SameBits(threaded.gradient), "backward: the same bits on all threads");
  CompareForward(c, results);
  CompareBackward(c, results.argmax, results.gradient);
  for (int32_t& cell : results.argmax) {  // such as no forward pass gives
    if (input.OneIn(4)) cell = static_cast<int32_t>(input.Word());
  }
  RoiPoolBackward<T>(c.parameters, c.output_gradient->data(), results.argmax.data(),
                     results.gradient.data(), ThreadsFor(threads));
  CompareBackward(c, results.argmax, results.gradient);
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
