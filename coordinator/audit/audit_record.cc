#include "coordinator/audit/audit_record.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <optional>

namespace heddle::coordinator {
namespace {

constexpr std::array<std::string_view, 9> kKindNames = {
    "init",        "token_made",           "device_enrolled", "device_revoked", "run_submitted",
    "run_stopped", "certificate_reloaded", "refusal",         "repaired"};

constexpr std::string_view kHashField = ",\"hash\":\"";

// Bytes outside of printable ASCII are written as \u00xx, so that a line is ASCII and one line whatever came from
// outside.
void AppendText(std::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  *out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (byte < 0x20 || byte > 0x7e) {
      *out += "\\u00";
      *out += kHex[byte >> 4];
      *out += kHex[byte & 15];
    } else {
      *out += c;
    }
  }
  *out += '"';
}

// Takes a line apart from its front. After a failure it stays failed.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}
  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && rest_.empty(); }

  void Skip(std::string_view literal) {
    if (!rest_.starts_with(literal)) return Fail();
    rest_.remove_prefix(literal.size());
  }
  uint64_t Number() {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) Fail();
    if (ok_) rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return value;
  }
  std::string Text() {
    std::string out;
    Skip("\"");
    while (ok_ && !rest_.empty() && rest_[0] != '"') {
      if (rest_[0] != '\\') {
        out += rest_[0];
        rest_.remove_prefix(1);
      } else if (rest_.size() >= 6 && rest_[1] == 'u') {
        unsigned value = 0;
        const auto [end, error] = std::from_chars(rest_.data() + 2, rest_.data() + 6, value, 16);
        if (error != std::errc() || end != rest_.data() + 6 || value > 255) Fail();
        out += static_cast<char>(value);
        if (ok_) rest_.remove_prefix(6);
      } else if (rest_.size() >= 2) {
        out += rest_[1];
        rest_.remove_prefix(2);
      } else {
        Fail();
      }
    }
    Skip("\"");
    return out;
  }
  Sha256Digest Digest() {
    const auto digest = Sha256Digest::FromHex(Text());
    if (!digest.ok()) Fail();
    return digest.ok() ? *digest : Sha256Digest();
  }
  Time Moment() {
    const std::string text = Text();
    int year = 0;
    unsigned month = 0, day = 0, hour = 0, minute = 0, second = 0, micros = 0;
    const int fields = std::sscanf(text.c_str(), "%4d-%2u-%2uT%2u:%2u:%2u.%6uZ", &year, &month, &day, &hour, &minute,
                                   &second, &micros);
    const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
    // A sign is taken too, so that what is below zero comes as a very large number.
    if (fields != 7 || !date.ok() || hour > 23 || minute > 59 || second > 59 || micros > 999'999) Fail();
    if (!ok_) return {};
    return Time(std::chrono::sys_days(date)) + std::chrono::hours(hour) + std::chrono::minutes(minute) +
           std::chrono::seconds(second) + Duration(micros);
  }
  AuditKind Kind() {
    const auto found = std::find(kKindNames.begin(), kKindNames.end(), Text());
    if (found == kKindNames.end()) Fail();
    return ok_ ? static_cast<AuditKind>(found - kKindNames.begin()) : AuditKind::kRefusal;
  }

 private:
  void Fail() {
    ok_ = false;
    rest_ = {};
  }
  std::string_view rest_;
  bool ok_ = true;
};

void Cut(std::string* text) {
  if (text->size() > kMaxAuditText) text->resize(kMaxAuditText);
}

Time IntoRange(Time time) { return FromUnixMicros(std::clamp<int64_t>(ToUnixMicros(time), 0, kMaxAuditMicros)); }

}  // namespace

std::string_view AuditKindName(AuditKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

std::string AuditTimeText(Time time) {
  time = IntoRange(time);
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss<Duration> clock(time - day);
  char text[40];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02d.%06dZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()), static_cast<int>(clock.subseconds().count()));
  return text;
}

std::string FormatRecord(AuditRecord* record) {
  AuditEvent& event = record->event;
  for (std::string* text : {&event.actor, &event.from, &event.object, &event.outcome, &event.detail}) Cut(text);
  record->time = IntoRange(record->time);
  event.since = IntoRange(event.since);
  std::string line = "{\"seq\":" + std::to_string(record->sequence) + ",\"time\":\"" + AuditTimeText(record->time) +
                     "\",\"since\":\"" + AuditTimeText(event.since) + "\",\"kind\":\"";
  line += AuditKindName(event.kind);
  line += '"';
  const auto field = [&line](std::string_view name, std::string_view text) {
    line += ",\"";
    line += name;
    line += "\":";
    AppendText(text, &line);
  };
  field("actor", event.actor);
  field("from", event.from);
  field("object", event.object);
  field("outcome", event.outcome);
  field("detail", event.detail);
  line += ",\"count\":" + std::to_string(event.count) + ",\"prev\":\"" + record->previous.ToHex() + "\"";
  record->hash = Sha256(line);
  line += kHashField;
  line += record->hash.ToHex();
  line += "\"}";
  return line;
}

Result<AuditRecord> ParseRecord(std::string_view line) {
  if (line.size() > kMaxAuditLine) return InvalidArgument("it is longer than any line of an audit log");
  AuditRecord record;
  AuditEvent& event = record.event;
  Cursor in(line);
  in.Skip("{\"seq\":");
  record.sequence = in.Number();
  in.Skip(",\"time\":");
  record.time = in.Moment();
  in.Skip(",\"since\":");
  event.since = in.Moment();
  in.Skip(",\"kind\":");
  event.kind = in.Kind();
  const auto field = [&in](std::string_view name) {
    in.Skip(name);
    return in.Text();
  };
  event.actor = field(",\"actor\":");
  event.from = field(",\"from\":");
  event.object = field(",\"object\":");
  event.outcome = field(",\"outcome\":");
  event.detail = field(",\"detail\":");
  in.Skip(",\"count\":");
  event.count = in.Number();
  in.Skip(",\"prev\":");
  record.previous = in.Digest();
  in.Skip(",\"hash\":");
  const Sha256Digest hash = in.Digest();
  in.Skip("}");
  if (!in.AtEnd()) return InvalidArgument("it is not a line of an audit log");
  AuditRecord again = record;
  const std::string canonical = FormatRecord(&again);
  if (again.hash != hash) return InvalidArgument("its hash is not that of its content");
  if (canonical != line) return InvalidArgument("it is not spelt as the audit log spells it");
  record.hash = hash;
  return record;
}

}  // namespace heddle::coordinator
