// MaxUnpool and MaxUnpoolGradient against their contract, value by value, for all element types,
// and the same bits on every number of threads.

#include <cmath>
#include <optional>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/max_unpool/max_unpool.h"

namespace kvision::fuzz {
namespace {

template <typename T>
struct Case {
  MaxUnpoolParameters parameters;
  std::optional<Buffer<T>> x, map;
  std::optional<Buffer<int32_t>> argmax;

  explicit Case(Input& input) {
    const bool wide = input.OneIn(8);  // in channels, and then small in all else
    parameters.batch = input.Size(2, 3);
    parameters.channels = wide ? input.Between(0, 300) : input.Size(9, 40);
    parameters.output_height = input.Size(5, wide ? 4 : 12);
    parameters.output_width = input.Size(5, wide ? 4 : 12);
    if (input.OneIn(50)) {  // more than a cache holds, in bands
      parameters.channels = input.Between(500, 700);
      parameters.output_height = 8;
      parameters.output_width = 25;
    }
    const int64_t block = input.Between(1, 3);
    // In blocks, with a rest, without relation.
    parameters.height = parameters.output_height * block + input.Between(-1, 1);
    parameters.width = parameters.output_width * block + input.Between(-1, 1);
    if (input.OneIn(4)) parameters.height = input.Size(9, 30);
    if (input.OneIn(4)) parameters.width = input.Size(9, 30);
    if (parameters.height < 0) parameters.height = 0;
    if (parameters.width < 0) parameters.width = 0;
    const int64_t maps = parameters.batch * parameters.channels;
    x.emplace(DrawNumbers<T>(input, maps * parameters.Positions(), 4));
    map.emplace(DrawNumbers<T>(input, maps * parameters.Cells(), 4));
    argmax.emplace(input, x->size());
    const uint32_t anywhere_in = input.OneOf({1u << 31, 1u << 31, 100u, 1u});
    const uint32_t off_in = input.OneOf({1u << 31, 1u << 31, 1u << 31, 50u});
    const int64_t reach = input.OneIn(2) ? block - 1 : block;  // into the next one
    for (int64_t at = 0; at < x->size(); ++at) {
      const int64_t position = at / parameters.channels % parameters.Positions();
      const int64_t y = position / parameters.output_width * block + input.Between(0, reach);
      const int64_t column = position % parameters.output_width * block + input.Between(0, reach);
      int64_t cell = y * parameters.width + column;
      const bool off = y >= parameters.height || column >= parameters.width;
      if (parameters.Cells() > 0 && (off || input.OneIn(anywhere_in))) {
        cell = input.Between(0, parameters.Cells() - 1);
      }
      if (input.OneIn(off_in)) {
        cell = input.OneOf<int64_t>({-1, parameters.Cells(), INT32_MAX, INT32_MIN});
      }
      (*argmax)[at] = static_cast<int32_t>(cell);
    }
  }

  int64_t ImageOf(int64_t at) const { return at / (parameters.Positions() * parameters.channels); }
  bool OnMap(int64_t at) const { return (*argmax)[at] >= 0 && (*argmax)[at] < parameters.Cells(); }
  // Index in the map of a value's place.
  int64_t PlaceOf(int64_t at) const {
    return (ImageOf(at) * parameters.Cells() + (*argmax)[at]) * parameters.channels +
           at % parameters.channels;
  }
};

template <typename T>
struct Results {
  Buffer<T> map, gradient;
  int64_t wrong, wrong_of_gradient;

  Results(Input& input, const Case<T>& c, int threads)
      : map(input, c.map->size()), gradient(input, c.x->size()) {
    wrong =
        MaxUnpool<T>(c.parameters, c.x->data(), c.argmax->data(), map.data(), ThreadsFor(threads));
    wrong_of_gradient = MaxUnpoolGradient<T>(c.parameters, c.map->data(), c.argmax->data(),
                                             gradient.data(), ThreadsFor(threads));
  }
};

template <typename T>
bool Same(T a, T b) {
  return ToFloat(a) == ToFloat(b) || (std::isnan(ToFloat(a)) && std::isnan(ToFloat(b)));
}

template <typename T>
void Compare(const Case<T>& c, const Results<T>& results) {
  std::vector<AccumulatorOf<T>> sums(c.map->size());
  int64_t wrong = -1;
  for (int64_t at = c.x->size() - 1; at >= 0; --at) {
    if (!c.OnMap(at)) wrong = at;
  }
  Require(results.wrong == wrong, "the first place off the map");
  Require(results.wrong_of_gradient == wrong, "gradient: the first place off the map");
  for (int64_t at = 0; at < c.x->size(); ++at) {
    if (!c.OnMap(at)) continue;
    sums[c.PlaceOf(at)] += ToFloat((*c.x)[at]);
    Require(Same(results.gradient[at], (*c.map)[c.PlaceOf(at)]), "gradient: the value");
  }
  if (wrong >= 0) return;
  for (int64_t i = 0; i < c.map->size(); ++i) {
    Require(Same(results.map[i], FromFloat<T>(sums[i])), "the sum of a place");
  }
}

template <typename T>
void Run(Input& input) {
  const Case<T> c(input);
  const Results<T> results(input, c, 1);
  const Results<T> threaded(input, c, input.OneOf({2, 3, 7}));
  Require(results.wrong >= 0 || results.map.SameBits(threaded.map), "the same bits on all threads");
  Require(results.wrong == threaded.wrong, "the same error on all threads");
  Require(results.wrong >= 0 || results.gradient.SameBits(threaded.gradient),
          "gradient: the same bits on all threads");
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
