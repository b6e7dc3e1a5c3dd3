// Bytes to bits, bits to components, components to labels, each a row at a time.
#include "common/isa.h"
#include "ops/connected_components/connected_components.h"

#define KVISION_ISA_FILE "ops/connected_components/connected_components_pack.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

decltype(&baseline::PackRow) PackRowForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::PackRow;
    case Isa::kAvx2:
      return &avx2::PackRow;
#endif
    default:
      return &baseline::PackRow;
  }
}

}  // namespace

void ConnectedComponentsCpu(const ConnectedComponentsParameters& parameters, const bool* mask,
                            int32_t* labels, ParallelFor parallel_for) {
  const int64_t width = parameters.width, rows = parameters.batch * parameters.height;
  if (rows * width == 0) return;
  const auto pack_row = PackRowForThisProcessor();
  const BitMasks masks(rows, width);
  parallel_for(rows, width / 8 + 1, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) pack_row(mask + y * width, width, masks[y]);
  });
  const Components components(masks, parameters.height, parameters.connectivity, parallel_for);
  parallel_for(rows, width / 4 + 1, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) components.WriteRow(y, labels + y * width);
  });
}

}  // namespace kvision
