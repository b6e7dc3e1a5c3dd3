#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/isa.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_plan.h"

#define KVISION_ISA_FILE \
  "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_gradient.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickPoolUnitsBackward() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::PoolUnitsBackward<T>;
    case Isa::kAvx2:
      return &avx2::PoolUnitsBackward<T>;
#endif
    default:
      return &baseline::PoolUnitsBackward<T>;
  }
}

}  // namespace

template <typename T>
void DepthwiseAtrousBackward(const DepthwiseAtrousParameters& parameters, const T* output_gradient,
                             const T* output, const T* x, const T* kernels,
                             const DepthwiseAtrousGradients<T>& gradients,
                             ParallelFor parallel_for) {
  using F = AccumulatorOf<T>;
  const int64_t channels = parameters.channels, num_taps = parameters.NumTaps();
  if (parameters.Pixels() * channels == 0) {
    std::fill_n(gradients.kernels, num_taps * channels, T{});
    std::fill_n(gradients.biases, parameters.num_branches * channels, T{});
    return;
  }
  const auto pool_units = PickPoolUnitsBackward<T>();
  const DepthwiseAtrousPlan plan =
      PlanDepthwiseAtrous<T>(parameters, DepthwiseAtrousKeptRows(parameters));
  const DepthwiseAtrousRunsOfBranches runs = DepthwiseAtrousRunsOf(parameters);
  const bool streamed = DepthwiseAtrousStreams(gradients.x, channels, parameters.Pixels());
  const int64_t part_size = (num_taps + parameters.num_branches) * channels;
  std::vector<F> parts(plan.Parts() * part_size);
  const int64_t cost = plan.group_images * plan.band_rows * parameters.width * plan.block_channels *
                       (num_taps + 8) / 4;
  parallel_for(plan.Units(), cost, [&](int64_t begin, int64_t end) {
    pool_units(parameters, plan, runs, output_gradient, output, x, kernels, gradients.x,
               parts.data(), part_size, streamed, begin, end);
  });
  for (int64_t part = 1; part < plan.Parts(); ++part) {
    std::transform(parts.begin(), parts.begin() + part_size, parts.begin() + part * part_size,
                   parts.begin(), [](F sum, F value) { return sum + value; });
  }
  const auto round = [](F sum) { return FromFloat<T>(sum); };
  const auto biases = parts.begin() + num_taps * channels;
  std::transform(parts.begin(), biases, gradients.kernels, round);
  std::transform(biases, parts.begin() + part_size, gradients.biases, round);
}

#define KVISION_DEPTHWISE_ATROUS(T)                                                                \
  template void DepthwiseAtrousBackward<T>(const DepthwiseAtrousParameters&, const T*, const T*,   \
                                           const T*, const T*, const DepthwiseAtrousGradients<T>&, \
                                           ParallelFor);
KVISION_DEPTHWISE_ATROUS(Half)
KVISION_DEPTHWISE_ATROUS(BFloat16)
KVISION_DEPTHWISE_ATROUS(float)
KVISION_DEPTHWISE_ATROUS(double)
#undef KVISION_DEPTHWISE_ATROUS

}  // namespace kvision
