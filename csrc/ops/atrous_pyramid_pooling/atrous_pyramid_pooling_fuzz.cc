// AtrousPyramidForward, Backward and KernelBackward against their contract, product by product, for
// all element types, and the same bits on every number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling.h"

namespace kvision::fuzz {
namespace {

template <typename T>
struct Case {
  AtrousMap map;
  bool relu;
  std::vector<Buffer<T>> tensors;  // x, the output's gradient, the biases
  std::vector<Buffer<T>> kernels;
  std::vector<AtrousBranch<const T>> branches;

  explicit Case(Input& input) {
    // Large in one thing, and then small in all else.
    const auto large = input.OneOf<int>({0, 0, 0, 1, 2, 3});
    map.images = input.Size(2, 3);
    map.height = large == 1 ? input.Size(12, 24) : input.Size(5, 9);
    map.width = large == 1 ? input.Size(12, 24) : input.Size(5, 9);
    map.in_channels = large == 2 ? input.Size(300, 600) : input.Size(5, 9);
    map.filters = 0;
    relu = input.OneIn(2);
    const int64_t number = input.Between(1, 4);
    for (int64_t n = 0; n < number; ++n) {
      AtrousBranch<const T> branch{};
      branch.kernel_height = input.OneOf<int64_t>({1, 3, 3, input.Size(3, 5)});
      branch.kernel_width = input.OneOf<int64_t>({1, 3, 3, input.Size(3, 5)});
      branch.filters = large == 3 ? input.Size(70, 300) : input.Size(4, 7);
      branch.rate = input.OneOf<int64_t>({1, 2, 3, input.Between(1, 40), kAtrousMaxRate});
      branch.first_filter = map.filters;
      map.filters += branch.filters;
      const int64_t size = branch.Taps() * map.in_channels * branch.filters;
      kernels.push_back(DrawNumbers<T>(input, size, 2));
      branches.push_back(branch);
    }
    for (size_t n = 0; n < branches.size(); ++n) branches[n].kernel = kernels[n].data();
    tensors.push_back(DrawNumbers<T>(input, map.Pixels() * map.in_channels, 4));
    tensors.push_back(DrawNumbers<T>(input, map.Pixels() * map.filters, 1));
    tensors.push_back(DrawNumbers<T>(input, map.filters, 3));
  }

  const Buffer<T>& x() const { return tensors[0]; }
  const Buffer<T>& output_gradient() const { return tensors[1]; }
  const Buffer<T>& biases() const { return tensors[2]; }
};

template <typename T>
struct Results {
  Buffer<T> output, x_gradient;
  std::vector<Buffer<T>> kernel_gradients;

  Results(Input& input, const Case<T>& c, int threads)
      : output(input, c.output_gradient().size()), x_gradient(input, c.x().size()) {
    std::vector<AtrousBranch<T>> gradients;
    for (size_t n = 0; n < c.branches.size(); ++n) {
      kernel_gradients.emplace_back(input, c.kernels[n].size());
      const AtrousBranch<const T>& branch = c.branches[n];
      gradients.push_back({kernel_gradients[n].data(), branch.kernel_height, branch.kernel_width,
                           branch.filters, branch.rate, branch.first_filter});
    }
    const auto number = static_cast<int64_t>(gradients.size());
    const Span<const AtrousBranch<const T>> branches = {c.branches.data(), number};
    AtrousPyramidForward<T>(c.map, c.x().data(), branches, c.biases().data(), c.relu, output.data(),
                            ThreadsFor(threads));
    AtrousPyramidBackward<T>(c.map, c.output_gradient().data(), branches, x_gradient.data(),
                             ThreadsFor(threads));
    AtrousPyramidKernelBackward<T>(c.map, c.x().data(), c.output_gradient().data(),
                                   {gradients.data(), number}, ThreadsFor(threads));
  }
};

// A sum as the contract has it, in the widest type, and how far rounding may move it.
struct Expected {
  long double sum = 0, magnitude = 0;
  int64_t terms = 0;

  void Add(long double term) {
    sum += term;
    magnitude += std::fabs(term);
    ++terms;
  }

  template <typename T>
  void Compare(T found, bool relu, const char* broken) const {
    using F = AccumulatorOf<T>;
    const F value = ToFloat(found);
    // Where a part may overflow or is none, the order of the sum decides.
    if (!(magnitude < std::numeric_limits<F>::max() / 2)) return;
    const long double wanted = relu && sum < 0 ? 0 : sum;
    // Of half types, the result is rounded once more, and may be too large for them.
    const F rounded = ToFloat(FromFloat<T>(static_cast<F>(wanted)));
    if (std::isinf(rounded) || std::isinf(value)) {
      const F least = ToFloat(FromFloat<T>(static_cast<F>(wanted * 0.99L)));
      Require(std::isinf(least) || std::isinf(rounded) || value == rounded, broken);
      return;
    }
    const long double unit = std::is_same_v<T, F>          ? 0
                             : std::is_same_v<T, BFloat16> ? 0x1p-8L
                                                           : 0x1p-11L;
    const long double allowed =
        (terms + 2) * std::numeric_limits<F>::epsilon() * magnitude + unit * std::fabs(wanted) +
        (terms + 2) * std::numeric_limits<F>::min() + (std::is_same_v<T, Half> ? 0x1p-24L : 0);
    Require(std::fabs(value - wanted) <= allowed, broken);
  }
};

// Calls visit(branch number, tap, pixel, source pixel) for every tap of every pixel that finds the
// map.
template <typename T, typename Visit>
void ForProducts(const Case<T>& c, Visit visit) {
  const AtrousMap& map = c.map;
  for (size_t n = 0; n < c.branches.size(); ++n) {
    const AtrousBranch<const T>& branch = c.branches[n];
    for (int64_t tap = 0; tap < branch.Taps(); ++tap) {
      const int64_t i = tap / branch.kernel_width, j = tap % branch.kernel_width;
      const int64_t down = i * branch.rate - (branch.kernel_height - 1) * branch.rate / 2;
      const int64_t right = j * branch.rate - (branch.kernel_width - 1) * branch.rate / 2;
      for (int64_t pixel = 0; pixel < map.Pixels(); ++pixel) {
        const int64_t y = pixel / map.width % map.height + down, x = pixel % map.width + right;
        if (y < 0 || y >= map.height || x < 0 || x >= map.width) continue;
        visit(n, tap, pixel, pixel + down * map.width + right);
      }
    }
  }
}

template <typename T>
void CompareWithContract(const Case<T>& c, const Results<T>& results) {
  const AtrousMap& map = c.map;
  std::vector<Expected> output(results.output.size()), x_gradient(results.x_gradient.size());
  std::vector<std::vector<Expected>> kernel_gradients;
  for (const Buffer<T>& kernel : c.kernels) kernel_gradients.emplace_back(kernel.size());
  for (int64_t i = 0; i < results.output.size(); ++i) {
    output[i].Add(ToFloat(c.biases()[i % map.filters]));
  }
  ForProducts(c, [&](size_t n, int64_t tap, int64_t pixel, int64_t source) {
    const AtrousBranch<const T>& branch = c.branches[n];
    for (int64_t channel = 0; channel < map.in_channels; ++channel) {
      const long double x = ToFloat(c.x()[source * map.in_channels + channel]);
      for (int64_t f = 0; f < branch.filters; ++f) {
        const int64_t weight = (tap * map.in_channels + channel) * branch.filters + f;
        const int64_t at = pixel * map.filters + branch.first_filter + f;
        const long double w = ToFloat(branch.kernel[weight]);
        const long double gradient = ToFloat(c.output_gradient()[at]);
        output[at].Add(x * w);
        x_gradient[source * map.in_channels + channel].Add(gradient * w);
        kernel_gradients[n][weight].Add(gradient * x);
      }
    }
  });
  for (int64_t i = 0; i < results.output.size(); ++i) {
    output[i].Compare(results.output[i], c.relu, "forward: the sum over the taps");
  }
  for (int64_t i = 0; i < results.x_gradient.size(); ++i) {
    x_gradient[i].Compare(results.x_gradient[i], false, "backward: the gradient of x");
  }
  for (size_t n = 0; n < c.kernels.size(); ++n) {
    for (int64_t i = 0; i < c.kernels[n].size(); ++i) {
      kernel_gradients[n][i].Compare(results.kernel_gradients[n][i], false,
                                     "backward: the gradient of the kernels");
    }
  }
}

template <typename T>
void Run(Input& input) {
  const Case<T> c(input);
  const Results<T> results(input, c, 1);
  const Results<T> threaded(input, c, static_cast<int>(input.OneOf({2, 3, 7})));
  Require(results.output.SameBits(threaded.output), "forward: the same bits on all threads");
  Require(results.x_gradient.SameBits(threaded.x_gradient),
          "backward to x: the same bits on all threads");
  for (size_t n = 0; n < c.kernels.size(); ++n) {
    Require(results.kernel_gradients[n].SameBits(threaded.kernel_gradients[n]),
            "backward to the kernels: the same bits on all threads");
  }
  CompareWithContract(c, results);
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
