#include "model/data/labels.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>

#include "common/assert.h"

namespace heddle::model {
namespace {

constexpr size_t kShownBytes = 60;

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string Shown(std::string_view text) {
  return "\"" + std::string(text.substr(0, kShownBytes)) + (text.size() > kShownBytes ? "…" : "") + "\"";
}

}  // namespace

LabelMap LabelMap::Classes(int64_t n) {
  HEDDLE_ASSERT(n >= 1, "a classification has classes");
  LabelMap map;
  map.kind_ = Kind::kClass;
  map.num_classes_ = n;
  return map;
}

LabelMap LabelMap::Numbers() {
  LabelMap map;
  map.kind_ = Kind::kNumber;
  return map;
}

Result<LabelMap> LabelMap::Named(std::vector<std::string> names) {
  if (names.empty()) return InvalidArgument("there must be at least one name of a class");
  LabelMap map = Classes(static_cast<int64_t>(names.size()));
  for (const std::string& name : names) {
    if (Trim(name) != name || name.empty()) {
      return InvalidArgument("the name of a class may not be empty or have white space around it: " + Shown(name));
    }
    const auto id = static_cast<int64_t>(map.by_name_.size());
    if (!map.by_name_.emplace(name, id).second) return InvalidArgument("two classes are called " + Shown(name));
    if (ParseNumber<int64_t>(name)) map.names_only_ = true;
  }
  map.names_ = std::move(names);
  return map;
}

std::string LabelMap::Allowed() const {
  const std::string range = "a whole number from 0 to " + std::to_string(num_classes_ - 1);
  if (names_.empty()) return range;
  std::string list;
  for (size_t i = 0; i < names_.size() && i < 10; ++i) list += (i == 0 ? "" : ", ") + names_[i];
  if (names_.size() > 10) list += ", …";
  return names_only_ ? "one of " + list : "one of " + list + ", or " + range;
}

Result<double> LabelMap::FromInteger(int64_t value) const {
  HEDDLE_ASSERT(kind_ != Kind::kNone, "labels that nobody reads");
  if (kind_ == Kind::kNumber) return static_cast<double>(value);
  if (names_only_) return FromText(std::to_string(value));
  if (value < 0 || value >= num_classes_) {
    return InvalidArgument("the label is " + std::to_string(value) + ", but must be " + Allowed());
  }
  return static_cast<double>(value);
}

Result<double> LabelMap::FromReal(double value) const {
  if (kind_ == Kind::kNumber) {
    if (std::isfinite(value)) return value;
    return InvalidArgument("the label must be a finite number");
  }
  if (std::abs(value) < 0x1p53 && value == std::trunc(value)) return FromInteger(static_cast<int64_t>(value));
  char shown[32];  // of 1e300 as std::to_string writes it there would be no end
  std::snprintf(shown, sizeof shown, "%.10g", value);
  return InvalidArgument("the label is " + std::string(shown) + ", but must be " + Allowed());
}

Result<double> LabelMap::FromText(std::string_view text) const {
  HEDDLE_ASSERT(kind_ != Kind::kNone, "labels that nobody reads");
  text = Trim(text);
  if (kind_ == Kind::kNumber) {
    const std::optional<double> value = ParseNumber<double>(text);
    if (value && std::isfinite(*value)) return *value;
    return InvalidArgument("the label is " + Shown(text) + ", but must be a number");
  }
  if (const auto it = by_name_.find(std::string(text)); it != by_name_.end()) return static_cast<double>(it->second);
  if (const std::optional<int64_t> value = ParseNumber<int64_t>(text); value && !names_only_)
    return FromInteger(*value);
  return InvalidArgument("the label is " + Shown(text) + ", but must be " + Allowed());
}

}  // namespace heddle::model
