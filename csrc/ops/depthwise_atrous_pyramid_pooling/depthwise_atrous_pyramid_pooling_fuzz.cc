// DepthwiseAtrousForward and DepthwiseAtrousBackward against their contract, tap by tap, for all
// element types, and the same bits on every number of threads.

#include <cmath>
#include <optional>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"

namespace kvision::fuzz {
namespace {

template <typename T>
struct Case {
  DepthwiseAtrousParameters parameters{};
  std::optional<Buffer<T>> x, kernels, biases, output_gradient;

  explicit Case(Input& input) {
    DepthwiseAtrousParameters& p = parameters;
    const bool wide = input.OneIn(8), tall = input.OneIn(8);  // and then small in all else
    p.images = input.Size(2, 3);
    p.height = input.Size(tall ? 80 : wide ? 4 : 9, tall ? 80 : wide ? 4 : 20);
    p.width = input.Size(wide || tall ? 4 : 9, wide || tall ? 4 : 20);
    p.channels = wide ? input.Between(0, 300) : tall ? input.Size(3, 3) : input.Size(9, 40);
    p.num_branches = static_cast<int>(input.Between(1, wide || tall ? 2 : 4));
    p.relu = input.OneIn(2);
    int64_t first_tap = 0;
    for (int branch = 0; branch < p.num_branches; ++branch) {
      const int64_t any = 1 + 2 * input.Between(0, 4);
      const int64_t rate =
          input.OneOf<int64_t>({1, 1, 2, 3, 6, 17, input.Between(1, 25), kDepthwiseAtrousMaxRate});
      p.branches[branch] = {input.OneOf<int64_t>({1, 3, 3, 3, 5, any}), rate, first_tap};
      first_tap += p.branches[branch].Taps();
    }
    const int64_t pixels = p.Pixels() * p.channels;
    x.emplace(DrawNumbers<T>(input, pixels, 4));
    kernels.emplace(DrawNumbers<T>(input, first_tap * p.channels, 1));
    biases.emplace(DrawNumbers<T>(input, p.num_branches * p.channels, 4));
    output_gradient.emplace(DrawNumbers<T>(input, pixels * p.num_branches, 1));
  }
};

template <typename T>
struct Results {
  Buffer<T> output, x, kernels, biases;

  Results(Input& input, const Case<T>& c, int threads)
      : output(input, c.output_gradient->size()),
        x(input, c.x->size()),
        kernels(input, c.kernels->size()),
        biases(input, c.biases->size()) {
    DepthwiseAtrousForward<T>(c.parameters, c.x->data(), c.kernels->data(), c.biases->data(),
                              output.data(), ThreadsFor(threads));
    DepthwiseAtrousBackward<T>(c.parameters, c.output_gradient->data(), output.data(), c.x->data(),
                               c.kernels->data(), {x.data(), kernels.data(), biases.data()},
                               ThreadsFor(threads));
  }
};

// A sum in double, with the sum of the magnitudes of its terms.
struct Sum {
  double value = 0, magnitude = 0;

  void Add(double term) {
    value += term;
    magnitude += std::fabs(term);
  }
};

// Calls visit(branch, tap, cell, read): a cell of x or of a branch's output, and the one that a tap
// reads from there, for every tap on the image.
template <typename Visit>
void ForTaps(const DepthwiseAtrousParameters& p, Visit visit) {
  for (int branch = 0; branch < p.num_branches; ++branch) {
    const auto& [size, rate, first_tap] = p.branches[branch];
    for (int64_t tap = 0; tap < size * size; ++tap) {
      const int64_t rows = (tap / size - size / 2) * rate, columns = (tap % size - size / 2) * rate;
      for (int64_t cell = 0; cell < p.Pixels(); ++cell) {
        const int64_t row = cell / p.width % p.height + rows, column = cell % p.width + columns;
        if (row < 0 || row >= p.height || column < 0 || column >= p.width) continue;
        visit(branch, first_tap + tap, cell, cell + rows * p.width + columns);
      }
    }
  }
}

// Whether a result is the sum, rounded: of so many terms in the type that T is summed in, once more
// to T. Sums that leave the range of that type on the way are anything.
template <typename T>
bool Near(T found, const Sum& sum) {
  using F = AccumulatorOf<T>;
  const double value = ToFloat(found);
  if (!(sum.magnitude < 0.01 * static_cast<double>(std::numeric_limits<F>::max()))) return true;
  const double unit = std::is_same_v<T, Half>       ? 0x1p-11
                      : std::is_same_v<T, BFloat16> ? 0x1p-8
                                                    : 0.0;
  const double largest = std::is_same_v<T, Half> ? 65000 : 3e38;
  if (!std::is_same_v<T, double> && std::fabs(sum.value) > largest) return true;
  const double allowed = sum.magnitude * 1000 * std::numeric_limits<F>::epsilon() +
                         std::fabs(sum.value) * unit +
                         (std::is_same_v<T, Half> ? 0x1p-24 : 100 * std::numeric_limits<F>::min());
  return std::fabs(value - sum.value) <= allowed;
}

template <typename T>
void Compare(const Case<T>& c, const Results<T>& results) {
  const DepthwiseAtrousParameters& p = c.parameters;
  const int64_t channels = p.channels;
  const auto passes = [&](int64_t at) { return !p.relu || ToFloat(results.output[at]) > 0; };
  std::vector<Sum> output(results.output.size()), x(results.x.size());
  std::vector<Sum> kernels(results.kernels.size()), biases(results.biases.size());
  for (int64_t at = 0; at < static_cast<int64_t>(output.size()); ++at) {
    const int64_t of = at % (p.num_branches * channels);
    output[at].Add(ToFloat((*c.biases)[of]));
    if (passes(at)) biases[of].Add(ToFloat((*c.output_gradient)[at]));
  }
  ForTaps(p, [&](int branch, int64_t tap, int64_t cell, int64_t read) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int64_t at = (cell * p.num_branches + branch) * channels + channel;
      const int64_t from = read * channels + channel, weight = tap * channels + channel;
      const double value = ToFloat((*c.x)[from]), factor = ToFloat((*c.kernels)[weight]);
      output[at].Add(value * factor);
      const double arrives = passes(at) ? ToFloat((*c.output_gradient)[at]) : 0;
      x[from].Add(arrives * factor);
      kernels[weight].Add(arrives * value);
    }
  });
  for (int64_t at = 0; at < static_cast<int64_t>(output.size()); ++at) {
    Sum sum = output[at];
    if (p.relu && sum.value < 0) sum.value = 0;
    Require(Near(results.output[at], sum), "forward: the sum over the taps");
    Require(!p.relu || !(ToFloat(results.output[at]) < 0), "forward: nothing below zero");
  }
  for (int64_t i = 0; i < results.x.size(); ++i) {
    Require(Near(results.x[i], x[i]), "backward: the gradient of x");
  }
  for (int64_t i = 0; i < results.kernels.size(); ++i) {
    Require(Near(results.kernels[i], kernels[i]), "backward: the gradient of the kernels");
  }
  for (int64_t i = 0; i < results.biases.size(); ++i) {
    Require(Near(results.biases[i], biases[i]), "backward: the gradient of the biases");
  }
}

template <typename T>
void Run(Input& input) {
  const Case<T> c(input);
  const Results<T> results(input, c, 1);
  const Results<T> threaded(input, c, input.OneOf({2, 3, 7}));
  Require(results.output.SameBits(threaded.output), "forward: the same bits on all threads");
  Require(results.x.SameBits(threaded.x) && results.kernels.SameBits(threaded.kernels) &&
              results.biases.SameBits(threaded.biases),
          "backward: the same bits on all threads");
  Compare(c, results);
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
