// A device's half of the short forms (protocol/short_form.h, docs/protocol.md): what it keeps of its last assignment,
// so that check-ins, assignments and reports need not repeat it. Free of sockets and files.
//
// A value, one thread at a time. What it keeps is lost with the process: the next check-in is then a whole one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/status.h"
#include "protocol/v1/device.pb.h"

namespace heddle::client {

class ShortForms {
 public:
  // True once an assignment came of a coordinator that knows short forms.
  bool on() const { return lasting_.has_value(); }
  // Whether the run has ledgers, so that Checkin should be given the newest one.
  bool WantsLedger() const { return on() && lasting_->plan().train().has_seeds(); }

  v1::CheckinRequest Checkin(const std::vector<std::string>& local_tasks, uint64_t memory_bytes,
                             const std::optional<Sha256Digest>& ledger) const;
  // An assignment as it came, made whole; what leads to its ledger, if that came along, goes to `patch`. Errors:
  // kInvalidArgument: it leaves out what was not kept. Then the next check-in is a whole one.
  Result<v1::TaskAssignment> Take(v1::TaskAssignment sent, std::string* patch);
  // Puts the update that a completed report names into it.
  void AddUpdate(std::string update, v1::ReportRequest* report) const;
  // After a refusal that only what was left out may have caused.
  void Forget() { lasting_.reset(); }

 private:
  std::optional<v1::TaskAssignment> lasting_;
};

}  // namespace heddle::client
