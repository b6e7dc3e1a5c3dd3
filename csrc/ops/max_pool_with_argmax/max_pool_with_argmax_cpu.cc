#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/isa.h"
#include "ops/max_pool_with_argmax/max_pool_with_argmax.h"

#define KVISION_ISA_FILE "ops/max_pool_with_argmax/max_pool_window.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickMaxOfRow() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::MaxOfRow<T>;
    case Isa::kAvx2:
      return &avx2::MaxOfRow<T>;
#endif
    default:
      return &baseline::MaxOfRow<T>;
  }
}

}  // namespace

template <typename T>
void MaxPoolWithArgmax(const MaxPoolParameters& parameters, const T* x, T* pooled, int32_t* argmax,
                       ParallelFor parallel_for) {
  const auto& [batch, channels, rows, columns] = parameters;
  if (batch * parameters.Windows() * channels == 0) return;
  const auto max_of_row = PickMaxOfRow<T>();
  const int64_t map_size = parameters.Cells() * channels;
  const int64_t row_size = columns.windows * channels;
  const int64_t cells = std::min(rows.length, rows.size) * std::min(columns.length, columns.size);
  const int64_t cost = row_size * cells / 4 + 1;
  parallel_for(
      batch * rows.windows, cost,
      [&, rows = rows, columns = columns, channels = channels](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          max_of_row(x + row / rows.windows * map_size, channels, rows.CellsOf(row % rows.windows),
                     columns, pooled + row * row_size, argmax + row * row_size);
        }
      });
}

#define KVISION_MAX_POOL(T) \
  template void MaxPoolWithArgmax<T>(const MaxPoolParameters&, const T*, T*, int32_t*, ParallelFor);
KVISION_MAX_POOL(Half)
KVISION_MAX_POOL(BFloat16)
KVISION_MAX_POOL(float)
KVISION_MAX_POOL(double)
#undef KVISION_MAX_POOL

}  // namespace kvision
