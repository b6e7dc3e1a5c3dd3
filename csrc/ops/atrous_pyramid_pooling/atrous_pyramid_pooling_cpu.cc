#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/isa.h"
#include "common/threads.h"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling.h"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling_sums.h"

#define KVISION_ISA_FILE "ops/atrous_pyramid_pooling/atrous_pyramid_pooling_sums.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickSumTaps() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumTaps<T>;
    case Isa::kAvx2:
      return &avx2::SumTaps<T>;
#endif
    default:
      return &baseline::SumTaps<T>;
  }
}

template <typename T>
auto PickSumKernel() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumKernel<T>;
    case Isa::kAvx2:
      return &avx2::SumKernel<T>;
#endif
    default:
      return &baseline::SumKernel<T>;
  }
}

// What one thread sums at a time: rows and columns of one of several sums.
struct Part {
  size_t sum;
  AtrousRange rows, columns;
};

// Calls visit(range) for ranges of about equal size, `most` at most, that make up [0, total).
template <typename Visit>
void ForRanges(int64_t total, int64_t most, Visit visit) {
  const int64_t number = (total + most - 1) / most;
  for (int64_t i = 0; i < number; ++i) {
    visit(AtrousRange{total / number * i + std::min(i, total % number),
                      total / number * (i + 1) + std::min(i + 1, total % number)});
  }
}

void AppendParts(size_t sum, int64_t rows, int64_t most_rows, int64_t columns,
                 std::vector<Part>* parts) {
  ForRanges(rows, most_rows, [&](AtrousRange part_of_rows) {
    ForRanges(columns, kAtrousColumns, [&](AtrousRange part_of_columns) {
      parts->push_back({sum, part_of_rows, part_of_columns});
    });
  });
}

// The most pixels of a part: fewer where that gives each core two parts, for results do not depend
// on the parts.
int64_t PixelsOfParts(int64_t pixels, int64_t columns) {
  constexpr int64_t kLeast = 140;
  const auto parts = [](int64_t total, int64_t most) { return (total + most - 1) / most; };
  int64_t most = kAtrousPixels;
  while (most > kLeast &&
         parts(pixels, most) * parts(columns, kAtrousColumns) < 2 * NumOwnThreads()) {
    most /= 2;
  }
  return most;
}

// Sums every part: sum_part(sum, rows, columns, workspace).
template <typename Sum, typename SumPart>
void SumParts(const std::vector<Sum>& sums, const std::vector<Part>& parts, int64_t cost,
              SumPart sum_part, ParallelFor parallel_for) {
  parallel_for(static_cast<int64_t>(parts.size()), cost, [&](int64_t begin, int64_t end) {
    AtrousWorkspace<typename Sum::Accumulator> workspace;
    for (int64_t i = begin; i < end; ++i) {
      sum_part(sums[parts[i].sum], parts[i].rows, parts[i].columns, &workspace);
    }
  });
}

// Calls visit(tap, rows, columns) for every tap that reaches a pixel, the taps of a kernel in their
// order.
template <typename T, typename Visit>
void ForTaps(const AtrousMap& map, const AtrousBranch<T>& branch, Visit visit) {
  if (branch.Taps() == 0) return;  // which may have any number of rows
  for (int64_t i = 0; i < branch.kernel_height; ++i) {
    const AtrousReach rows = ReachOfTap(i, branch.kernel_height, branch.rate, map.height);
    if (rows.begin >= rows.end) continue;
    for (int64_t j = 0; j < branch.kernel_width; ++j) {
      const AtrousReach columns = ReachOfTap(j, branch.kernel_width, branch.rate, map.width);
      if (columns.begin < columns.end) visit(i * branch.kernel_width + j, rows, columns);
    }
  }
}

// The tap as the pixel sees it that it finds.
AtrousReach Reversed(const AtrousReach& reach) {
  return {-reach.offset, reach.begin + reach.offset, reach.end + reach.offset};
}

// A rough price of a part in cycles.
int64_t CostOf(int64_t rows, int64_t columns, int64_t depth) {
  const double products = static_cast<double>(std::min(rows, kAtrousChannels)) *
                          static_cast<double>(std::min(columns, kAtrousColumns)) *
                          static_cast<double>(depth + 8);
  return static_cast<int64_t>(std::min(products / 16, 1e15));
}

}  // namespace

template <typename T>
void AtrousPyramidForward(const AtrousMap& map, const T* x,
                          Span<const AtrousBranch<const T>> branches, const T* biases, bool relu,
                          T* output, ParallelFor parallel_for) {
  std::vector<AtrousSum<T>> sums;
  std::vector<Part> parts;
  int64_t depth = 0, columns = 0;
  for (const auto& branch : branches) {
    columns += (branch.filters + kAtrousColumns - 1) / kAtrousColumns * kAtrousColumns;
  }
  const int64_t most_pixels = PixelsOfParts(map.Pixels(), columns);
  for (const AtrousBranch<const T>& branch : branches) {
    AtrousSum<T> sum{map,
                     x,
                     map.in_channels,
                     {},
                     biases + branch.first_filter,
                     relu,
                     output,
                     map.filters,
                     branch.first_filter,
                     branch.filters};
    const int64_t size_of_tap = map.in_channels * branch.filters;
    if (size_of_tap > 0) {
      ForTaps(map, branch, [&](int64_t tap, const AtrousReach& rows, const AtrousReach& columns) {
        sum.taps.push_back({rows, columns, 0, map.in_channels, branch.kernel + tap * size_of_tap,
                            branch.filters, 1});
      });
    }
    depth = std::max(depth, static_cast<int64_t>(sum.taps.size()) * map.in_channels);
    AppendParts(sums.size(), map.Pixels(), most_pixels, branch.filters, &parts);
    sums.push_back(std::move(sum));
  }
  SumParts(sums, parts, CostOf(map.Pixels(), map.filters, depth), PickSumTaps<T>(), parallel_for);
}

template <typename T>
void AtrousPyramidBackward(const AtrousMap& map, const T* output_gradient,
                           Span<const AtrousBranch<const T>> branches, T* x_gradient,
                           ParallelFor parallel_for) {
  AtrousSum<T> sum{map,   output_gradient, map.filters,     {}, nullptr,
                   false, x_gradient,      map.in_channels, 0,  map.in_channels};
  int64_t depth = 0;
  for (const AtrousBranch<const T>& branch : branches) {
    const int64_t size_of_tap = map.in_channels * branch.filters;
    if (size_of_tap == 0) continue;
    ForTaps(map, branch, [&](int64_t tap, const AtrousReach& rows, const AtrousReach& columns) {
      sum.taps.push_back({Reversed(rows), Reversed(columns), branch.first_filter, branch.filters,
                          branch.kernel + tap * size_of_tap, 1, branch.filters});
      depth += branch.filters;
    });
  }
  std::vector<Part> parts;
  AppendParts(0, map.Pixels(), PixelsOfParts(map.Pixels(), map.in_channels), map.in_channels,
              &parts);
  const std::vector<AtrousSum<T>> sums(1, std::move(sum));
  SumParts(sums, parts, CostOf(map.Pixels(), map.in_channels, depth), PickSumTaps<T>(),
           parallel_for);
}

template <typename T>
void AtrousPyramidKernelBackward(const AtrousMap& map, const T* x, const T* output_gradient,
                                 Span<const AtrousBranch<T>> kernel_gradients,
                                 ParallelFor parallel_for) {
  std::vector<AtrousKernelSum<T>> sums;
  std::vector<Part> parts;
  for (const AtrousBranch<T>& branch : kernel_gradients) {
    const int64_t size_of_tap = map.in_channels * branch.filters;
    if (size_of_tap == 0) continue;
    std::fill_n(branch.kernel, branch.Taps() * size_of_tap, T{});  // of taps that reach nothing
    ForTaps(map, branch, [&](int64_t tap, const AtrousReach& rows, const AtrousReach& columns) {
      AppendParts(sums.size(), map.in_channels, kAtrousChannels, branch.filters, &parts);
      sums.push_back({map, x, output_gradient, rows, columns, branch.first_filter, branch.filters,
                      branch.kernel + tap * size_of_tap});
    });
  }
  SumParts(sums, parts, CostOf(map.in_channels, map.filters, map.Pixels()), PickSumKernel<T>(),
           parallel_for);
}

#define KVISION_ATROUS(T)                                                                      \
  template void AtrousPyramidForward<T>(const AtrousMap&, const T*,                            \
                                        Span<const AtrousBranch<const T>>, const T*, bool, T*, \
                                        ParallelFor);                                          \
  template void AtrousPyramidBackward<T>(const AtrousMap&, const T*,                           \
                                         Span<const AtrousBranch<const T>>, T*, ParallelFor);  \
  template void AtrousPyramidKernelBackward<T>(const AtrousMap&, const T*, const T*,           \
                                               Span<const AtrousBranch<T>>, ParallelFor);
KVISION_ATROUS(Half)
KVISION_ATROUS(BFloat16)
KVISION_ATROUS(float)
KVISION_ATROUS(double)
#undef KVISION_ATROUS

}  // namespace kvision
