#include "client/daemon/short_forms.h"

#include <utility>

#include "common/build_info.h"
#include "protocol/limits.h"
#include "protocol/short_form.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::client {

v1::CheckinRequest ShortForms::Checkin(const std::vector<std::string>& local_tasks, uint64_t memory_bytes,
                                       const std::optional<Sha256Digest>& ledger) const {
  v1::CheckinRequest message;
  message.set_protocol_version(protocol::kProtocolVersion);
  if (on()) {
    message.add_local_tasks(lasting_->plan().local_task());
    message.set_lasting_key(protocol::LastingKey(*lasting_));
    if (ledger) message.set_ledger_sha256(std::string(ledger->raw()));
    // It may decide what the next task is of; but no task that has a ledger.
    if (!lasting_->plan().train().has_seeds()) message.set_memory_bytes(memory_bytes);
    return message;
  }
  message.set_software_version(std::string(VersionString()));
  for (const std::string& name : local_tasks) message.add_local_tasks(name);
  message.set_memory_bytes(memory_bytes);
  message.set_short_forms(true);
  return message;
}

Result<v1::TaskAssignment> ShortForms::Take(v1::TaskAssignment sent, std::string* patch) {
  const std::optional<v1::TaskAssignment> kept = std::exchange(lasting_, std::nullopt);
  *patch = std::exchange(*sent.mutable_ledger_patch(), {});
  if (sent.lasting_key() != 0) {
    if (!kept) return InvalidArgument("the assignment leaves out what this device was never told");
    HEDDLE_ASSIGN_OR_RETURN(sent, protocol::Completed(*kept, sent));
  }
  if (sent.short_forms()) lasting_ = protocol::LastingPart(sent);
  return sent;
}

void ShortForms::AddUpdate(std::string update, v1::ReportRequest* report) const {
  // Of damaged bytes digest and size are told, so that they are refused.
  const bool brief =
      on() && update.size() == report->update().size_bytes() && Sha256(update).raw() == report->update().sha256();
  const std::string scalars = brief ? zo::ScalarsOfUpdate(update) : std::string();
  if (brief) report->clear_update();
  if (scalars.empty()) {
    report->set_inline_update(std::move(update));
  } else {
    report->set_scalars(scalars);
    report->clear_parent_sha256();
  }
}

}  // namespace heddle::client
