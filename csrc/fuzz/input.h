// What fuzz targets share: any bytes as sizes, numbers and boxes; buffers without a byte to spare;
// checks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <utility>

#include "common/half.h"

namespace kvision::fuzz {

// Stops as a sanitizer does, so that whoever drives the target keeps the input.
inline void Require(bool condition, const char* broken) {
  if (condition) return;
  std::fprintf(stderr, "\nBroken: %s.\n", broken);
  std::abort();
}

// Reads bytes as an endless row of words: when they end, pseudo-random words follow that depend on
// all of them. A few bytes are thus a whole case, and a target reads as much as it likes. What a
// kept case means depends on the order in which its target reads; new reads belong at the end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), end_(data + size) {
    for (const uint8_t* byte = data; byte != end_; ++byte) state_ = (state_ ^ *byte) * kPrime;
  }

  uint32_t Word() {
    uint32_t word;
    if (end_ - data_ < static_cast<int64_t>(sizeof(word))) {  // the rest: splitmix64
      uint64_t z = state_ += 0x9e3779b97f4a7c15u;
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
      return static_cast<uint32_t>((z ^ z >> 27) * 0x94d049bb133111ebu >> 32);
    }
    std::memcpy(&word, data_, sizeof(word));
    data_ += sizeof(word);
    return word;
  }

  bool OneIn(uint32_t number) { return Word() % number == 0; }
  double Unit() { return Word() * 0x1p-32; }
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Word() % static_cast<uint64_t>(high - low + 1));
  }
  // A size: mostly up to `few`, seldom up to `most`, now and then zero or one.
  int64_t Size(int64_t few, int64_t most) {
    const uint32_t kind = Word() % 16;
    return Between(0, kind == 0 ? 1 : kind == 1 ? most : few);
  }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[Word() % values.size()];
  }

  // The numbers at which arithmetic breaks, and any bits at all.
  template <typename F>
  F Special() {
    using Limits = std::numeric_limits<F>;
    const F bits = BitCast<float>(Word());
    return OneOf<F>({Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), F(0), -F(0),
                     Limits::denorm_min(), -Limits::denorm_min(), Limits::min(), Limits::epsilon(),
                     Limits::max(), Limits::lowest(), F(0x1p31), F(-0x1p31), F(0x1p63), F(1e18),
                     bits});
  }

 private:
  static constexpr uint64_t kPrime = 0x100000001b3u;
  const uint8_t* data_;
  const uint8_t* end_;
  uint64_t state_ = 0xcbf29ce484222325u;
};

// How the numbers of one array are drawn: a style for all, so that arrays differ as a whole, and
// how often one is special instead.
class Numbers {
 public:
  // Numbers in [-scale, scale) unless special, which they never are if `tame`.
  Numbers(Input& input, double scale, bool tame = false)
      : scale_(scale),
        style_(input.Word() % 5),
        special_in_(tame ? 0 : input.OneOf({0, 0, 0, 100, 10, 2})) {}

  template <typename F>
  F Next(Input& input) const {
    if (special_in_ != 0 && input.OneIn(special_in_)) return input.Special<F>();
    const double value = (2 * input.Unit() - 1) * scale_;
    const auto steps = static_cast<double>(input.Between(-4, 4));
    switch (style_) {
      case 0:  // many ties
        return static_cast<F>(steps * scale_ / 4);
      case 1:  // integers, of any scale
        return static_cast<F>(std::trunc(value));
      case 2:  // beside integers
        return static_cast<F>(std::trunc(value) * (1 + steps * std::numeric_limits<F>::epsilon()));
      default:
        return static_cast<F>(value);
    }
  }

 private:
  double scale_;
  uint32_t style_;
  uint32_t special_in_;
};

// An array in memory of its own, of exactly its size: AddressSanitizer sees the first byte read or
// written behind it. Aligned for its type and no better. Nothing in it is zero from the start.
template <typename T>
class Buffer {
 public:
  Buffer(Input& input, int64_t size)
      : offset_(input.OneIn(2) ? 0 : input.Between(1, 7)),
        size_(size),
        memory_(std::malloc((offset_ + size) * sizeof(T)), &std::free) {
    std::memset(memory_.get(), 0xa5, (offset_ + size) * sizeof(T));
  }

  T* data() const { return static_cast<T*>(memory_.get()) + offset_; }
  int64_t size() const { return size_; }
  T* begin() const { return data(); }
  T* end() const { return data() + size_; }
  T& operator[](int64_t index) const { return data()[index]; }

  bool SameBits(const Buffer& other) const {
    return size_ == other.size_ && std::memcmp(data(), other.data(), size_ * sizeof(T)) == 0;
  }

 private:
  int64_t offset_, size_;
  std::unique_ptr<void, void (*)(void*)> memory_;
};

// `tame` as in Numbers.
template <typename T>
Buffer<T> DrawNumbers(Input& input, int64_t size, double scale, bool tame = false) {
  Buffer<T> values(input, size);
  const Numbers numbers(input, scale, tame);
  for (T& value : values) value = FromFloat<T>(numbers.Next<AccumulatorOf<T>>(input));
  return values;
}

// Boxes x1, y1, x2, y2 of type F in [0, extent), or half of that to the left and above: scattered,
// in clusters or on a grid; some reversed or empty; some with special corners, unless `tame`.
template <typename F>
Buffer<F> DrawBoxes(Input& input, int64_t number, double extent, bool tame = false) {
  Buffer<F> boxes(input, number * 4);
  const double grid = input.OneIn(3) ? extent / 16 : 0;
  const int64_t clusters = input.OneIn(2) ? input.Between(1, 4) : 0;
  const double origin = input.OneIn(3) ? -0.5 * extent : 0;
  const double size = input.OneOf({0.05, 0.2, 0.5, 1.0}) * extent;
  const uint32_t reversed_in = input.OneOf({1u << 31, 50u, 3u});
  const uint32_t special_in = tame ? 1u << 31 : input.OneOf({1u << 31, 1u << 31, 100u, 5u});
  double centres[4][2];
  for (auto& centre : centres) {
    for (double& coordinate : centre) coordinate = origin + input.Unit() * extent;
  }
  for (int64_t box = 0; box < number; ++box) {
    const auto& centre = centres[clusters == 0 ? 0 : input.Between(0, clusters - 1)];
    for (int axis = 0; axis < 2; ++axis) {
      double low = origin + input.Unit() * (extent - size);
      double side = input.Unit() * size;
      if (clusters != 0) {
        low = centre[axis] + (input.Unit() - 0.5) * 0.2 * size;
        side = size * (0.9 + 0.2 * input.Unit());
      }
      if (grid != 0) {
        low = std::floor(low / grid) * grid;
        side = std::floor(side / grid) * grid;
      }
      F corners[] = {static_cast<F>(low), static_cast<F>(low + side)};
      if (input.OneIn(reversed_in)) std::swap(corners[0], corners[1]);
      for (int end = 0; end < 2; ++end) {
        boxes[box * 4 + end * 2 + axis] =
            input.OneIn(special_in) ? input.Special<F>() : corners[end];
      }
    }
  }
  return boxes;
}

// Attributes of the suppressing ops, over the whole of their ranges.
inline float DrawIouThreshold(Input& input) {
  const auto any = static_cast<float>(input.Unit());
  return input.OneOf({0.0f, 1.0f, 0.5f, 0.7f, 1.0f / 3, 0x1p-149f, any, any});
}

inline float DrawScoreThreshold(Input& input) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto any = static_cast<float>(2 * input.Unit() - 1);
  return input.OneOf({-kInfinity, -kInfinity, -1.0f, 0.0f, 0.0f, any, any, input.Special<float>()});
}

// Sides of an image, seldom of one whose boxes' areas end or begin with float's range.
inline double DrawExtent(Input& input) {
  return input.OneOf({1.0, 16.0, 640.0, 640.0, 1e4, 1e-18, 1e-21, 1e-38, 1e18, 1e20});
}

}  // namespace kvision::fuzz
