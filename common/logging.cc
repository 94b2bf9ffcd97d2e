#include "common/logging.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cmath>
#include <memory>

namespace heddle {
namespace {

std::atomic<bool> json_format{false};

spdlog::level::level_enum LevelOf(Severity severity) {
  switch (severity) {
    case Severity::kDebug:
      return spdlog::level::debug;
    case Severity::kInfo:
      return spdlog::level::info;
    case Severity::kWarning:
      return spdlog::level::warn;
    case Severity::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string NumberText(double value) {
  // JSON has no NaN and no infinity.
  return std::isfinite(value) ? fmt::format("{}", value) : fmt::format("\"{}\"", value);
}

// The length of the UTF-8 sequence that `text` starts with; 0 when it starts with none (RFC 3629, table in section 4).
size_t SequenceLength(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  auto in = [&](size_t i, unsigned low, unsigned high) { return byte(i) >= low && byte(i) <= high; };
  unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (in(0, 0xC2, 0xDF)) return in(1, 0x80, 0xBF) ? 2 : 0;
  if (in(0, 0xE0, 0xEF)) {
    bool second = in(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF);
    return second && in(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (in(0, 0xF0, 0xF4)) {
    bool second = in(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF);
    return second && in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

// As a JSON string. What is not UTF-8 (a peer's text, a file name) becomes U+FFFD, or the line would not be JSON.
std::string Quoted(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    size_t length = SequenceLength(text);
    clean += length > 0 ? text.substr(0, length) : std::string_view("\xEF\xBF\xBD");
    text.remove_prefix(length > 0 ? length : 1);
  }
  return boost::json::serialize(boost::json::string(clean));
}

// Text values are quoted when they hold anything but plain printable characters, so that an event stays on its line.
std::string FieldText(const LogField& field, bool json) {
  struct Visitor {
    bool json;
    std::string operator()(const std::string& text) const {
      bool plain = !json && !text.empty() &&
                   text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/+@%") ==
                       std::string::npos;
      return plain ? text : Quoted(text);
    }
    std::string operator()(int64_t value) const { return std::to_string(value); }
    std::string operator()(uint64_t value) const { return std::to_string(value); }
    std::string operator()(double value) const { return NumberText(value); }
    std::string operator()(bool value) const { return value ? "true" : "false"; }
  };
  return std::visit(Visitor{json}, field.value);
}

}  // namespace

Status InitLogging(const LogOptions& options) {
  spdlog::level::level_enum level;
  if (options.level == "debug") {
    level = spdlog::level::debug;
  } else if (options.level == "info") {
    level = spdlog::level::info;
  } else if (options.level == "warning") {
    level = spdlog::level::warn;
  } else if (options.level == "error") {
    level = spdlog::level::err;
  } else {
    return InvalidArgument("the log level '" + options.level + "' does not exist; use debug, info, warning or error");
  }
  if (options.format != "text" && options.format != "json") {
    return InvalidArgument("the log format '" + options.format + "' does not exist; use text or json");
  }
  try {
    spdlog::sink_ptr sink;
    if (options.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    }
    auto logger = std::make_shared<spdlog::logger>("heddle", std::move(sink));
    json_format = options.format == "json";
    logger->set_level(level);
    logger->flush_on(spdlog::level::debug);
    logger->set_pattern(json_format ? "%v" : "%Y-%m-%dT%H:%M:%S.%e%z %-7l %v");
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& error) {
    return PermissionDenied("cannot write the log file " + options.file + ": " + error.what());
  }
  return OkStatus();
}

void Log(Severity severity, std::string_view event, std::initializer_list<LogField> fields) {
  std::shared_ptr<spdlog::logger> logger = spdlog::default_logger();
  spdlog::level::level_enum level = LevelOf(severity);
  if (!logger->should_log(level)) return;
  std::string line;
  if (json_format) {
    double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    line = fmt::format(
        "{{\"time\":{:.6f},\"level\":\"{}\",\"event\":{}", now,
        severity == Severity::kWarning ? "warning" : std::string_view(spdlog::level::to_string_view(level).data()),
        Quoted(event));
    for (const LogField& field : fields) line += "," + Quoted(field.key) + ":" + FieldText(field, true);
    line += "}";
  } else {
    line = std::string(event);
    for (const LogField& field : fields) line += " " + std::string(field.key) + "=" + FieldText(field, false);
  }
  logger->log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace heddle
