// MaxPoolWithArgmax against its contract, cell by cell, for all element types, and the same bits on
// every number of threads.

#include <cmath>
#include <optional>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/max_pool_with_argmax/max_pool_with_argmax.h"

namespace kvision::fuzz {
namespace {

// Any windows that the checks let through.
MaxPoolAxis DrawAxis(Input& input, int64_t most) {
  MaxPoolAxis axis{};
  axis.size = input.Size(9, most);
  axis.length = input.OneOf<int64_t>({1, 2, 2, 3, 1 + input.Size(5, 12), kMaxPoolMaxCells});
  axis.stride = input.OneOf<int64_t>({1, 2, 2, 3, 1 + input.Size(5, 12), kMaxPoolMaxCells});
  axis.offset = input.OneIn(2) ? 0 : input.Between(0, axis.length - 1);
  if (axis.size > 0) {
    const int64_t greatest = (axis.size - 1 + axis.offset) / axis.stride + 1;
    axis.windows = input.Between(0, greatest < 40 ? greatest : 40);
  }
  return axis;
}

template <typename T>
struct Results {
  Buffer<T> pooled;
  Buffer<int32_t> argmax;

  Results(Input& input, const MaxPoolParameters& p, const Buffer<T>& x, int threads)
      : pooled(input, p.batch * p.Windows() * p.channels),
        argmax(input, p.batch * p.Windows() * p.channels) {
    MaxPoolWithArgmax<T>(p, x.data(), pooled.data(), argmax.data(), ThreadsFor(threads));
  }
};

// Whether a cell lies in a window, by its number alone.
bool Holds(const MaxPoolAxis& axis, int64_t window, int64_t cell) {
  const int64_t distance = cell + axis.offset - window * axis.stride;
  return distance >= 0 && distance < axis.length;
}

template <typename T>
void Compare(const MaxPoolParameters& p, const Buffer<T>& x, const Results<T>& results) {
  int64_t at = 0;
  for (int64_t window = 0; window < p.batch * p.Windows(); ++window) {
    const int64_t image = window / p.Windows(), in_image = window % p.Windows();
    for (int64_t channel = 0; channel < p.channels; ++channel, ++at) {
      int64_t best = -1;
      double best_value = 0;
      for (int64_t cell = 0; cell < p.Cells(); ++cell) {
        if (!Holds(p.rows, in_image / p.columns.windows, cell / p.columns.size) ||
            !Holds(p.columns, in_image % p.columns.windows, cell % p.columns.size)) {
          continue;
        }
        const double value = ToFloat(x[(image * p.Cells() + cell) * p.channels + channel]);
        if (best < 0 || (!std::isnan(best_value) && !(value <= best_value))) {
          best = cell;
          best_value = value;
        }
      }
      Require(results.argmax[at] == best, "the argmax");
      const double value = ToFloat(results.pooled[at]);
      Require(value == best_value || (std::isnan(value) && std::isnan(best_value)),
              "the value at the argmax");
    }
  }
}

template <typename T>
void Run(Input& input) {
  const bool wide = input.OneIn(8);  // in channels, and then small in all else
  MaxPoolParameters parameters{};
  parameters.batch = input.Size(2, 3);
  parameters.channels = wide ? input.Between(0, 300) : input.Size(9, 40);
  parameters.rows = DrawAxis(input, wide ? 4 : 20);
  parameters.columns = DrawAxis(input, wide ? 4 : 20);
  Require(CheckMaxPool(parameters).empty(), "a target that draws what is refused");
  const int64_t size = parameters.batch * parameters.Cells() * parameters.channels;
  const Buffer<T> x = DrawNumbers<T>(input, size, 4);
  const Results<T> results(input, parameters, x, 1);
  const Results<T> threaded(input, parameters, x, input.OneOf({2, 3, 7}));
  Require(results.pooled.SameBits(threaded.pooled), "the same bits on all threads");
  Require(results.argmax.SameBits(threaded.argmax), "the same argmax on all threads");
  Compare(parameters, x, results);
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
