// BoxIouForward and BoxIouBackward against the definitions in long double, in both types, pairwise
// and elementwise, for several numbers of threads.

#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/box_iou/box_iou.h"

using kvision::BoxIouParameters;
using kvision::IouKind;
using namespace kvision::fuzz;

namespace {

using Real = long double;

Real Side(Real low, Real high) { return high > low ? high - low : 0; }
Real Fraction(Real a, Real b) { return b > 0 ? a / b : 0; }

template <typename F>
Real Value(IouKind kind, const F* a, const F* b) {
  const Real width = std::min<Real>(a[2], b[2]) - std::max<Real>(a[0], b[0]);
  const Real height = std::min<Real>(a[3], b[3]) - std::max<Real>(a[1], b[1]);
  const Real inter = width > 0 && height > 0 ? width * height : 0;
  const Real area_union =
      Side(a[0], a[2]) * Side(a[1], a[3]) + Side(b[0], b[2]) * Side(b[1], b[3]) - inter;
  const Real iou = Fraction(inter, area_union);
  if (kind == IouKind::kIou) return iou;
  const Real around_width = Side(std::min(a[0], b[0]), std::max(a[2], b[2]));
  const Real around_height = Side(std::min(a[1], b[1]), std::max(a[3], b[3]));
  if (kind == IouKind::kGiou) {
    return iou - Fraction(around_width * around_height - area_union, around_width * around_height);
  }
  const Real x = (Real(a[0]) + a[2] - b[0] - b[2]) / 2, y = (Real(a[1]) + a[3] - b[1] - b[3]) / 2;
  const Real diou =
      iou - Fraction(x * x + y * y, around_width * around_width + around_height * around_height);
  if (kind == IouKind::kDiou) return diou;
  const Real angle = std::atan2(Side(a[0], a[2]), Side(a[1], a[3])) -
                     std::atan2(Side(b[0], b[2]), Side(b[1], b[3]));
  const Real pi = std::acos(Real(-1));
  const Real v = 4 / (pi * pi) * angle * angle;
  return diou - Fraction(v, 1 - iou + v) * v;
}

// Whether all steps of float arithmetic stay far from the ends of its range, and the sides are not
// the small differences of great coordinates.
template <typename F>
bool IsModerate(const F* box) {
  for (int axis = 0; axis < 2; ++axis) {
    const F low = box[axis], high = box[axis + 2];
    const F reach = std::max(std::abs(low), std::abs(high));
    if (!(reach < F(1e6) && high - low > std::max(F(1e-4), F(1e-3) * reach))) return false;
  }
  return true;
}

template <typename F>
void Fuzz(Input& input, const BoxIouParameters& p) {
  const double extent = DrawExtent(input);
  const auto boxes1 = DrawBoxes<F>(input, p.batch * p.num_boxes1, extent);
  const auto boxes2 = DrawBoxes<F>(input, p.batch * p.num_boxes2, extent);
  const int64_t row = p.pairwise ? p.num_boxes2 : 1;
  const int64_t total = p.batch * p.num_boxes1 * row;
  const auto upstream = DrawNumbers<F>(input, total, 1);

  Buffer<F> output(input, total), gradient1(input, boxes1.size()), gradient2(input, boxes2.size());
  const auto run = [&](int threads, Buffer<F>& out, Buffer<F>& first, Buffer<F>& second) {
    kvision::BoxIouForward<F>(p, boxes1.data(), boxes2.data(), out.data(),
                              kvision::ThreadsFor(threads));
    kvision::BoxIouBackward<F>(p, upstream.data(), boxes1.data(), boxes2.data(), first.data(),
                               second.data(), kvision::ThreadsFor(threads));
  };
  run(1, output, gradient1, gradient2);

  // Relative to the greatest coordinate of a pair, over its least side.
  constexpr Real kTolerance = sizeof(F) == 4 ? 4e-3L : 1e-11L;
  for (int64_t i = 0; i < total; ++i) {
    const F* a = boxes1.data() + 4 * (i / row);
    const F* b =
        boxes2.data() + 4 * (p.pairwise ? i / row / p.num_boxes1 * p.num_boxes2 + i % row : i);
    bool finite = true;
    for (int corner = 0; corner < 4; ++corner) {
      finite &= std::isfinite(a[corner]) && std::isfinite(b[corner]);
    }
    if (!finite) {
      Require(std::isnan(output[i]), "a pair that is not finite and no NaN");
      for (int64_t k = 4 * i; !p.pairwise && k < 4 * (i + 1); ++k) {
        Require(gradient1[k] == 0 && gradient2[k] == 0, "a gradient of a pair that is not finite");
      }
    } else if (IsModerate(a) && IsModerate(b)) {
      Require(std::abs(output[i] - Value(p.kind, a, b)) <= kTolerance, "a value");
    }
  }

  Buffer<F> output2(input, total), other1(input, boxes1.size()), other2(input, boxes2.size());
  run(input.OneOf({2, 3, 7}), output2, other1, other2);
  Require(output.SameBits(output2), "other bits with more threads");
  Require(gradient1.SameBits(other1) && gradient2.SameBits(other2),
          "other bits of the gradient with more threads");

  // The value stays when both boxes move together, and when both are scaled about the origin:
  // the gradients of a row of moderate pairs are orthogonal to both directions.
  for (int64_t i = 0; !p.pairwise && i < total; ++i) {
    const F *a = boxes1.data() + 4 * i, *b = boxes2.data() + 4 * i;
    const F *da = gradient1.data() + 4 * i, *db = gradient2.data() + 4 * i;
    if (!IsModerate(a) || !IsModerate(b) || !(std::abs(upstream[i]) <= 1)) continue;
    Real moved = 0, scaled = 0, greatest = 0, reach = 0;
    for (int k = 0; k < 4; ++k) {
      moved += k % 2 == 0 ? Real(da[k]) + db[k] : 0;
      scaled += Real(da[k]) * a[k] + Real(db[k]) * b[k];
      greatest = std::max({greatest, std::abs(Real(da[k])), std::abs(Real(db[k]))});
      reach = std::max({reach, std::abs(Real(a[k])), std::abs(Real(b[k]))});
    }
    Require(std::abs(moved) <= kTolerance * (1 + greatest), "a gradient of moving both boxes");
    Require(std::abs(scaled) <= kTolerance * (1 + greatest * reach),
            "a gradient of scaling both boxes");
  }

  // Sets of one box each have the gradients that the pairs have elementwise.
  const int64_t pairs = std::min({boxes1.size() / 4, boxes2.size() / 4, total});
  Buffer<F> sets1(input, 4 * pairs), sets2(input, 4 * pairs);
  Buffer<F> pairs1(input, 4 * pairs), pairs2(input, 4 * pairs);
  kvision::BoxIouBackward<F>({pairs, 1, 1, p.kind, true}, upstream.data(), boxes1.data(),
                             boxes2.data(), sets1.data(), sets2.data(), kvision::ThreadsFor(1));
  kvision::BoxIouBackward<F>({pairs, 1, 1, p.kind, false}, upstream.data(), boxes1.data(),
                             boxes2.data(), pairs1.data(), pairs2.data(), kvision::ThreadsFor(1));
  const auto same = [](F a, F b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  for (int64_t i = 0; i < 4 * pairs; ++i) {
    Require(same(sets1[i], pairs1[i]) && same(sets2[i], pairs2[i]),
            "other gradients for sets of one box than elementwise");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  BoxIouParameters p;
  p.kind = input.OneOf({IouKind::kIou, IouKind::kGiou, IouKind::kDiou, IouKind::kCiou});
  p.pairwise = input.OneIn(2);
  p.batch = input.Size(3, 5);
  p.num_boxes1 = input.Size(20, 300);
  p.num_boxes2 = p.pairwise ? input.Size(20, 300) : p.num_boxes1;
  if (input.OneIn(2)) {
    Fuzz<float>(input, p);
  } else {
    Fuzz<double>(input, p);
  }
  return 0;
}
