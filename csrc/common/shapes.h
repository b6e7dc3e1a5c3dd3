// The shapes of an op's inputs and outputs, written once in words and held to wherever the op is
// called: in a shape function, where sizes may be unknown, in a running op, and on NumPy arrays.
//
//   constexpr ShapeRule kInputs[] = {{"boxes", "num_boxes 4"}, {"scores", "num_boxes"}};
//   constexpr ShapeRule kOutputs[] = {{"indices", "size"}, {"count", ""}};
//
// An axis is a number, or a name that stands for one size wherever the op uses it. "*height" is a
// name for any size at all; "+filters" is one part of that size, whose parts are the tensors of a
// list; "classes|1" is the size of that name, or 1; of an output, "size|num_boxes" is the size of
// the first name, or of the second where that is not set.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/span.h"

namespace kvision {

constexpr int64_t kUnknownSize = -1;

struct ShapeRule {
  const char* tensor;
  const char* axes;
};

// Text without streams: a library may bring a C++ runtime of its own, whose streams do not work
// beside another's.
inline std::string ToText(std::string_view text) { return std::string(text); }

template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
std::string ToText(Number number) {
  if constexpr (std::is_integral_v<Number>) return std::to_string(number);
  char text[32];
  std::snprintf(text, sizeof(text), "%g", static_cast<double>(number));
  return text;
}

// An error in the words of the house: "nms: `boxes` must ... Received: ...". Empty is no error.
template <typename... Parts>
std::string Complaint(const char* op, const Parts&... parts) {
  return std::string(op) + ": " + (... + ToText(parts));
}

// The sizes that the names of an op's axes stand for, as far as they are known.
class Sizes {
 public:
  explicit Sizes(const char* op) : op_(op) {}

  const char* op() const { return op_; }

  int64_t operator[](std::string_view name) const {
    const Named* named = Find(name);
    return named == nullptr ? kUnknownSize : named->size;
  }

  // For sizes that come from attributes.
  void Set(std::string_view name, int64_t size) { Bind(name, size, ""); }

  // Learns the sizes of a tensor of the rule. Returns what is wrong with its shape, or nothing.
  std::string Match(const ShapeRule& rule, Span<const int64_t> shape) {
    const std::vector<std::string_view> axes = Split(rule.axes);
    bool fits = static_cast<int64_t>(axes.size()) == shape.size;
    std::string reason;
    for (int64_t i = 0; fits && i < shape.size; ++i) {
      fits = MatchAxis(axes[i], shape[i], rule.tensor, &reason);
    }
    if (fits) return {};
    return Complaint(op_, "`", rule.tensor, "` must have shape ", Words(axes), reason,
                     ". Received: ", Words(shape), ".");
  }

  // After all tensors of a list: its "+" axis makes up the size of that name. Returns what is wrong
  // with the sum, or nothing.
  std::string MatchSum(const ShapeRule& rule) {
    for (const std::string_view axis : Split(rule.axes)) {
      const Named* sum = axis[0] == '+' ? Find(axis) : nullptr;
      if (sum == nullptr || sum->size == kUnknownSize) continue;
      const std::string_view name = axis.substr(1);
      const Named* whole = Find(name);
      if (whole == nullptr || whole->size == kUnknownSize) {
        Bind(name, sum->size, rule.tensor);
      } else if (whole->size != sum->size) {
        return Complaint(op_, "`", rule.tensor, "` must have ", whole->size, " ", name, " in all",
                         *whole->tensor ? std::string(", as `") + whole->tensor + "` has" : "",
                         ". Received: ", sum->size, ".");
      }
    }
    return {};
  }

  // The shape of a tensor of the rule.
  std::vector<int64_t> Shape(const ShapeRule& rule) const {
    std::vector<int64_t> shape;
    for (const std::string_view axis : Split(rule.axes)) {
      const size_t bar = axis.find('|');
      const std::string_view name = axis.substr(0, bar);
      if (bar != std::string_view::npos && Find(name) == nullptr) {
        shape.push_back((*this)[axis.substr(bar + 1)]);
      } else {
        shape.push_back(IsNumber(axis) ? Number(axis) : (*this)[name]);
      }
    }
    return shape;
  }

  static std::string Words(Span<const int64_t> shape) {
    std::string text;
    for (const int64_t size : shape) text += (size == kUnknownSize ? "?" : ToText(size)) + ", ";
    return InBrackets(std::move(text), shape.size);
  }

 private:
  struct Named {
    std::string_view name;
    int64_t size;
    const char* tensor;  // where it was learnt
  };

  static bool IsNumber(std::string_view axis) { return axis[0] >= '0' && axis[0] <= '9'; }
  static int64_t Number(std::string_view axis) { return std::stoll(std::string(axis)); }

  static std::vector<std::string_view> Split(std::string_view axes) {
    std::vector<std::string_view> parts;
    while (!axes.empty()) {
      const size_t end = std::min(axes.find(' '), axes.size());
      parts.push_back(axes.substr(0, end));
      axes.remove_prefix(std::min(end + 1, axes.size()));
    }
    return parts;
  }

  static std::string InBrackets(std::string list, int64_t number) {
    if (number > 0) list.resize(list.size() - (number == 1 ? 1 : 2));  // "(5,)", "(5, 4)"
    return "(" + list + ")";
  }

  static std::string Words(const std::vector<std::string_view>& axes) {
    std::string text;
    for (std::string_view axis : axes) {
      if (axis[0] == '*' || axis[0] == '+') axis.remove_prefix(1);
      const size_t bar = axis.find('|');
      text += std::string(axis.substr(0, bar));
      if (bar != std::string_view::npos) text += " or " + std::string(axis.substr(bar + 1));
      text += ", ";
    }
    return InBrackets(std::move(text), static_cast<int64_t>(axes.size()));
  }

  bool MatchAxis(std::string_view axis, int64_t size, const char* tensor, std::string* reason) {
    if (axis[0] == '+') return AddPart(axis, size, tensor);
    if (size == kUnknownSize || axis[0] == '*') return true;
    if (IsNumber(axis)) return size == Number(axis);
    const size_t bar = axis.find('|');
    if (bar != std::string_view::npos && size == Number(axis.substr(bar + 1))) return true;
    const std::string_view name = axis.substr(0, bar);
    const Named* named = Find(name);
    if (named == nullptr || named->size == kUnknownSize) {
      Bind(name, size, tensor);
    } else if (named->size != size) {
      *reason = ", where " + std::string(name) + " is " + ToText(named->size);
      if (*named->tensor) *reason += std::string(" in `") + named->tensor + "`";
      return false;
    }
    return true;
  }

  // The sum stands under the axis as it is written, "+" and all, and is unknown once a part is. It
  // fits as long as it has a number.
  bool AddPart(std::string_view axis, int64_t size, const char* tensor) {
    const Named* sum = Find(axis);
    const int64_t before = sum == nullptr ? 0 : sum->size;
    const bool known = before != kUnknownSize && size != kUnknownSize;
    if (known && size > std::numeric_limits<int64_t>::max() - before) return false;
    Bind(axis, known ? before + size : kUnknownSize, tensor);
    return true;
  }

  const Named* Find(std::string_view name) const {
    for (int i = 0; i < number_; ++i) {
      if (named_[i].name == name) return &named_[i];
    }
    return nullptr;
  }

  void Bind(std::string_view name, int64_t size, const char* tensor) {
    for (int i = 0; i < number_; ++i) {
      if (named_[i].name == name) {
        named_[i] = {name, size, tensor};
        return;
      }
    }
    named_.at(number_++) = {name, size, tensor};
  }

  const char* op_;
  std::array<Named, 16> named_;
  int number_ = 0;
};

}  // namespace kvision
