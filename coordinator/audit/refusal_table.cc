#include "coordinator/audit/refusal_table.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace heddle::coordinator {
namespace {

constexpr std::string_view kOthers = "others";  // in place of the network, of rows that hold what did not fit
constexpr std::string_view kMixed = "MIXED";    // in place of the reason, of a line for all

std::string TextOf(int family, const void* bytes, const char* length) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (::inet_ntop(family, bytes, text.data(), text.size()) == nullptr) return {};
  return std::string(text.data()) + length;
}

}  // namespace

std::string NetworkOf(std::string_view address) {
  const size_t colon = address.rfind(':');
  std::string host(address.substr(0, colon));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  // An IPv6 address without brackets and port has been cut at its last group.
  std::array<uint8_t, 16> bytes{};
  if (::inet_pton(AF_INET6, std::string(address).c_str(), bytes.data()) == 1) host = std::string(address);
  if (host.starts_with("::ffff:") && host.find('.') != std::string::npos) host = host.substr(7);
  if (::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1) {
    bytes[3] = 0;
    return TextOf(AF_INET, bytes.data(), "/24");
  }
  if (::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1) {
    std::fill(bytes.begin() + 6, bytes.end(), uint8_t{0});
    return TextOf(AF_INET6, bytes.data(), "/48");
  }
  return host;
}

void RefusalTable::Note(std::string_view reason, std::string_view device, std::string_view address,
                        std::string_view object, std::string_view detail, Time now, uint64_t count) {
  AuditEvent event;
  event.kind = AuditKind::kRefusal;
  event.actor = device;
  event.from = NetworkOf(address);
  event.object = object;
  event.outcome = reason;
  event.detail = detail.substr(0, kMaxAuditText);
  event.count = count;
  event.since = now;
  std::lock_guard lock(mutex_);
  Add(event);
}

void RefusalTable::Add(const AuditEvent& event) {
  auto row = rows_.find({event.outcome, event.actor, event.from});
  if (row == rows_.end() && rows_.size() >= limits_.max_rows) {
    AuditEvent rest = event;
    rest.actor.clear();
    rest.from = kOthers;
    rest.detail.clear();
    row = rows_.find({rest.outcome, rest.actor, rest.from});
    if (row == rows_.end()) {
      rows_.emplace(Key{rest.outcome, rest.actor, rest.from}, std::move(rest));
      return;
    }
  } else if (row == rows_.end()) {
    rows_.emplace(Key{event.outcome, event.actor, event.from}, event);
    return;
  }
  row->second.count += event.count;
  row->second.since = std::min(row->second.since, event.since);
}

std::vector<AuditEvent> RefusalTable::Take(Time now, bool all) {
  std::lock_guard lock(mutex_);
  if (rows_.empty()) return {};
  Time oldest = now;
  for (auto& [key, row] : rows_) {
    row.since = std::min(row.since, now);  // a clock that went back begins the window anew
    oldest = std::min(oldest, row.since);
  }
  const Duration age = now - oldest;
  if (!all && age < limits_.window) return {};
  if (refilled_ != Time()) {
    const double days = std::max(0.0, ToSeconds(now - refilled_)) / 86400;
    tokens_ = std::min(limits_.lines_a_day, tokens_ + days * limits_.lines_a_day);
  }
  refilled_ = now;
  std::vector<AuditEvent> lines;
  if (static_cast<double>(rows_.size()) <= tokens_) {
    tokens_ -= static_cast<double>(rows_.size());
    for (auto& [key, row] : rows_) lines.push_back(std::move(row));
  } else if (all || age >= limits_.slow_window) {
    std::map<std::string, uint64_t> by_reason;
    AuditEvent mixed;
    mixed.kind = AuditKind::kRefusal;
    mixed.from = kOthers;
    mixed.outcome = kMixed;
    mixed.count = 0;
    mixed.since = oldest;
    for (const auto& [key, row] : rows_) {
      mixed.count += row.count;
      by_reason[row.outcome] += row.count;
    }
    for (const auto& [reason, count] : by_reason) {
      mixed.detail += (mixed.detail.empty() ? "" : ", ") + reason + " " + std::to_string(count);
    }
    lines.push_back(std::move(mixed));
  } else {
    return {};
  }
  rows_.clear();
  return lines;
}

void RefusalTable::GiveBack(std::vector<AuditEvent> events) {
  std::lock_guard lock(mutex_);
  for (const AuditEvent& event : events) Add(event);
}

}  // namespace heddle::coordinator
