// One line per event, on stderr: text for people or JSON for machines. Ids are fields, never part of the sentence:
//   Log(Severity::kInfo, "round committed", {{"run_id", id}, {"round", 3}});
// Thread-safe. A thin wall around spdlog, so that its headers stay out of ours.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "common/status.h"

namespace heddle {

enum class Severity { kDebug, kInfo, kWarning, kError };

struct LogField {
  LogField(std::string_view k, std::string_view v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(v) {}
  LogField(std::string_view k, double v) : key(k), value(v) {}
  LogField(std::string_view k, bool v) : key(k), value(v) {}
  template <typename T>
  requires std::is_integral_v<T> LogField(std::string_view k, T v) : key(k) {
    if constexpr (std::is_unsigned_v<T>) {
      value = static_cast<uint64_t>(v);
    } else {
      value = static_cast<int64_t>(v);
    }
  }
  std::string_view key;
  std::variant<std::string, int64_t, uint64_t, double, bool> value;
};

struct LogOptions {
  std::string level = "info";   // debug, info, warning, error
  std::string format = "text";  // text, json
  std::string file;             // empty: stderr. A file is appended to.
};

// Call it once, before other threads log; without it, text goes to spdlog's default. Folders of the file are made.
// Errors: kInvalidArgument for an unknown level or format, kPermissionDenied when the file cannot be opened.
Status InitLogging(const LogOptions& options);
void Log(Severity severity, std::string_view event, std::initializer_list<LogField> fields = {});

}  // namespace heddle
