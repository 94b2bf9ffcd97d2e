// Small checks shared by validate.cc and validate_task.cc.
#pragma once

#include <cmath>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::protocol::internal {

inline Status Bad(std::string_view field, std::string_view rule) {
  return InvalidArgument("field " + std::string(field) + " " + std::string(rule));
}

inline Status CheckRange(std::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return OkStatus();
  return Bad(field, "is " + std::to_string(value) + " but must be in [" + std::to_string(low) + ", " +
                        std::to_string(high) + "]");
}

// `high` itself is allowed only when `closed`.
inline Status CheckReal(std::string_view field, double value, double low, double high, bool closed = true) {
  if (std::isfinite(value) && value >= low && (closed ? value <= high : value < high)) return OkStatus();
  return Bad(field, "is " + std::to_string(value) + " but must be a number in [" + std::to_string(low) + ", " +
                        std::to_string(high) + (closed ? "]" : ")"));
}

inline Status CheckBytes(std::string_view field, std::string_view value, size_t low, size_t high) {
  if (value.size() >= low && value.size() <= high) return OkStatus();
  return Bad(field, "has " + std::to_string(value.size()) + " bytes but must have " + std::to_string(low) + " to " +
                        std::to_string(high));
}

// Printable ASCII without spaces at the ends: what may go into logs and file names of ours.
inline Status CheckName(std::string_view field, std::string_view value, size_t low, size_t high) {
  HEDDLE_RETURN_IF_ERROR(CheckBytes(field, value, low, high));
  for (char c : value) {
    if (c < 0x20 || c > 0x7E) return Bad(field, "must be printable ASCII");
  }
  return OkStatus();
}

}  // namespace heddle::protocol::internal
