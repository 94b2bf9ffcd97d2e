// The audit log of a running coordinator: acts go into it at once, refusals are gathered and written by a background
// job, so that no request waits for the log because somebody else was refused.
//
// What a crash loses: refusals of the last seconds (RefusalLimits::window and the time until the next Flush). Acts are
// never lost. Life cycle: Open; Flush(kAll) before the end. Thread-safety: any thread; Flush blocks for the disk.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "coordinator/audit/audit_log.h"
#include "coordinator/audit/refusal_table.h"

namespace heddle::coordinator {

class AuditTrail {
 public:
  // Errors: those of AuditLog::Open.
  static Result<std::unique_ptr<AuditTrail>> Open(AuditOptions options, RefusalLimits limits = {});

  AuditLog& log() { return *log_; }

  // As RefusalTable::Note, now.
  void Refused(std::string_view reason, std::string_view device, std::string_view address, std::string_view object,
               std::string_view detail, uint64_t count = 1);

  enum class What { kDue, kAll };
  // Writes the refusals that are due. When the log cannot be written they are kept and counted on. Errors: those of
  // AuditLog::Append.
  Status Flush(What what = What::kDue);

 private:
  AuditTrail(std::unique_ptr<AuditLog> log, const Clock* clock, RefusalLimits limits)
      : log_(std::move(log)), clock_(clock), refusals_(limits) {}

  std::unique_ptr<AuditLog> log_;
  SystemClock system_clock_;
  const Clock* clock_;  // nullptr: the system's
  RefusalTable refusals_;
};

}  // namespace heddle::coordinator
