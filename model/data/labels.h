// What a label of a data file means to a model: a class by number or by name, a number, or nothing.
// Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"

namespace heddle::model {

class LabelMap {
 public:
  // Labels are not looked at.
  LabelMap() = default;
  // Classes 0 to n - 1, n at least 1.
  static LabelMap Classes(int64_t n);
  // Classes with names (a model's id2label in order). A label is a name, or else a class's number; where some name is
  // itself a whole number, names only, since a number could mean either. Errors: kInvalidArgument: no name, an empty
  // one, or one twice.
  static Result<LabelMap> Named(std::vector<std::string> names);
  // Finite real numbers: regression.
  static LabelMap Numbers();

  enum class Kind { kNone, kClass, kNumber };
  Kind kind() const { return kind_; }
  int64_t num_classes() const { return num_classes_; }           // 0 unless kClass
  std::span<const std::string> names() const { return names_; }  // empty unless Named

  // A class's number or the real number itself, from what a file says (white space around it does not count).
  // Errors: kInvalidArgument: what was found and what is allowed, without saying where. Not for kNone.
  Result<double> FromText(std::string_view text) const;
  Result<double> FromInteger(int64_t value) const;
  Result<double> FromReal(double value) const;

 private:
  std::string Allowed() const;

  Kind kind_ = Kind::kNone;
  int64_t num_classes_ = 0;
  bool names_only_ = false;
  std::vector<std::string> names_;
  std::unordered_map<std::string, int64_t> by_name_;
};

}  // namespace heddle::model
