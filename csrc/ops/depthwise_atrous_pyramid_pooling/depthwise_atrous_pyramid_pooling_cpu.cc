#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/isa.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_plan.h"

#define KVISION_ISA_FILE \
  "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_forward.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickPoolUnits() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::PoolUnits<T>;
    case Isa::kAvx2:
      return &avx2::PoolUnits<T>;
#endif
    default:
      return &baseline::PoolUnits<T>;
  }
}

}  // namespace

template <typename T>
void DepthwiseAtrousForward(const DepthwiseAtrousParameters& parameters, const T* x,
                            const T* kernels, const T* biases, T* output,
                            ParallelFor parallel_for) {
  if (parameters.Pixels() * parameters.channels == 0) return;
  const auto pool_units = PickPoolUnits<T>();
  const int64_t ring_rows =
      DepthwiseAtrousRingRows(parameters.height, DepthwiseAtrousReach(parameters));
  const DepthwiseAtrousPlan plan = PlanDepthwiseAtrous<T>(parameters, ring_rows);
  const DepthwiseAtrousRunsOfBranches runs = DepthwiseAtrousRunsOf(parameters);
  const bool streamed = DepthwiseAtrousStreams(output, parameters.channels,
                                               parameters.Pixels() * parameters.num_branches);
  const int64_t cost =
      plan.band_rows * parameters.width * plan.block_channels * (parameters.NumTaps() + 8) / 8;
  parallel_for(plan.Units(), cost, [&](int64_t begin, int64_t end) {
    pool_units(parameters, plan, runs, x, kernels, biases, output, streamed, begin, end);
  });
}

#define KVISION_DEPTHWISE_ATROUS(T)                                                             \
  template void DepthwiseAtrousForward<T>(const DepthwiseAtrousParameters&, const T*, const T*, \
                                          const T*, T*, ParallelFor);
KVISION_DEPTHWISE_ATROUS(Half)
KVISION_DEPTHWISE_ATROUS(BFloat16)
KVISION_DEPTHWISE_ATROUS(float)
KVISION_DEPTHWISE_ATROUS(double)
#undef KVISION_DEPTHWISE_ATROUS

}  // namespace kvision
