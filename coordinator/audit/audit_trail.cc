#include "coordinator/audit/audit_trail.h"

#include <utility>
#include <vector>

namespace heddle::coordinator {

Result<std::unique_ptr<AuditTrail>> AuditTrail::Open(AuditOptions options, RefusalLimits limits) {
  const Clock* clock = options.clock;
  HEDDLE_ASSIGN_OR_RETURN(auto log, AuditLog::Open(std::move(options)));
  return std::unique_ptr<AuditTrail>(new AuditTrail(std::move(log), clock, limits));
}

void AuditTrail::Refused(std::string_view reason, std::string_view device, std::string_view address,
                         std::string_view object, std::string_view detail, uint64_t count) {
  const Time now = clock_ != nullptr ? clock_->Now() : system_clock_.Now();
  refusals_.Note(reason, device, address, object, detail, now, count);
}

Status AuditTrail::Flush(What what) {
  const Time now = clock_ != nullptr ? clock_->Now() : system_clock_.Now();
  std::vector<AuditEvent> lines = refusals_.Take(now, what == What::kAll);
  if (lines.empty()) return OkStatus();
  Status status = log_->Append(lines);
  if (!status.ok()) refusals_.GiveBack(std::move(lines));
  return status;
}

}  // namespace heddle::coordinator
