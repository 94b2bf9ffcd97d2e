// One line of the audit log, as a value and as bytes (docs/formats.md). A line names the hash of the line before it and
// its own, so that whoever changes, deletes, swaps or inserts one breaks the chain at that place.
//
// There is exactly one way to write a record: ParseRecord refuses every other spelling, so that no byte of a line can
// be changed without it being seen. Thread-safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/digest.h"
#include "common/status.h"

namespace heddle::coordinator {

enum class AuditKind {
  kInit,                 // the authority and the server's certificate were made
  kTokenMade,            // object: the device that may enrol with it
  kDeviceEnrolled,       // object: the device
  kDeviceRevoked,        // object: the device
  kRunSubmitted,         // object: the run, or the recipe's name while it is begun
  kRunStopped,           // object: the run
  kCertificateReloaded,  // of the server
  kRefusal,              // `count` refusals of one reason; outcome: the reason
  kRepaired,             // the log itself was found damaged; detail: how
};
// "device_revoked" and so on.
std::string_view AuditKindName(AuditKind kind);

// What happened, as its author tells it. Texts may hold any bytes; beyond kMaxAuditText they are cut.
struct AuditEvent {
  AuditKind kind = AuditKind::kRefusal;
  std::string actor;    // who: "admin", "uid 0", a device's name; empty: a stranger
  std::string from;     // an address, or a network of them ("192.0.2.0/24"); empty: this machine
  std::string object;   // what was acted on
  std::string outcome;  // "begun", "done", "failed", or the reason of a refusal
  std::string detail;   // one sentence, or nothing
  uint64_t count = 1;   // how many alike; at least 1
  Time since;           // when the first of them was; the epoch: now
};

struct AuditRecord {
  uint64_t sequence = 0;  // 1, 2, …
  Time time;              // when it was written, by the coordinator's clock, which may jump
  AuditEvent event;
  Sha256Digest previous;  // hash of the line before; zero in the first
  Sha256Digest hash;      // of this line
};

inline constexpr size_t kMaxAuditText = 256;        // bytes of each text
inline constexpr size_t kMaxAuditLine = 16 * 1024;  // bytes of a line, which the longest record stays below
inline constexpr int64_t kMaxAuditMicros = 253'402'300'799'999'999;  // the last microsecond of the year 9999

// "2026-01-31T12:00:00.000000Z". Times outside of 1970 to 9999 are taken to the nearer end.
std::string AuditTimeText(Time time);

// The line without its end of line; sets `hash`. Texts are cut and times taken into their range first.
std::string FormatRecord(AuditRecord* record);

// Errors: kInvalidArgument: not a record, not spelt as FormatRecord does, or its hash is not that of its bytes; the
// message says which.
Result<AuditRecord> ParseRecord(std::string_view line);

}  // namespace heddle::coordinator
