#include "protocol/short_form.h"

#include <algorithm>
#include <utility>

#include "common/digest.h"
#include "protocol/validate.h"

namespace heddle::protocol {
namespace {

// What changes with each round; LastingPart is the rest.
v1::TaskAssignment ChangingPart(const v1::TaskAssignment& whole) {
  v1::TaskAssignment changing;
  changing.set_assignment_id(whole.assignment_id());
  changing.set_round(whole.round());
  changing.set_attempt(whole.attempt());
  changing.set_deadline_unix_us(whole.deadline_unix_us());
  v1::TaskPlan& plan = *changing.mutable_plan();
  plan.set_seed(whole.plan().seed());
  const auto& adapter = whole.plan().adapter();
  if (!adapter.empty()) *plan.add_adapter() = adapter.Get(adapter.size() - 1);
  plan.mutable_train()->set_learning_rate(whole.plan().train().learning_rate());
  if (whole.plan().train().seeds().first_ref() > 0) {
    plan.mutable_train()->mutable_seeds()->set_first_ref(whole.plan().train().seeds().first_ref());
  }
  return changing;
}

}  // namespace

v1::TaskAssignment LastingPart(const v1::TaskAssignment& whole) {
  v1::TaskAssignment lasting = whole;
  lasting.clear_assignment_id();
  lasting.clear_round();
  lasting.clear_attempt();
  lasting.clear_deadline_unix_us();
  lasting.clear_lasting_key();
  lasting.clear_ledger_patch();
  v1::TaskPlan& plan = *lasting.mutable_plan();
  plan.clear_seed();
  if (!plan.adapter().empty()) plan.mutable_adapter()->RemoveLast();
  plan.mutable_train()->clear_learning_rate();
  if (plan.train().has_seeds()) plan.mutable_train()->mutable_seeds()->clear_first_ref();
  return lasting;
}

uint64_t LastingKey(const v1::TaskAssignment& lasting) {
  const Sha256Digest digest = Sha256(std::string_view(lasting.SerializeAsString()));
  uint64_t key = 0;
  for (int i = 7; i >= 0; --i) key = key << 8 | digest.bytes()[static_cast<size_t>(i)];
  return std::max<uint64_t>(key, 1);
}

void Shorten(uint64_t known, v1::TaskAssignment* assignment) {
  const v1::TaskAssignment lasting = LastingPart(*assignment);
  if (known == 0 || known != LastingKey(lasting)) return;
  v1::TaskAssignment changing = ChangingPart(*assignment);
  changing.set_lasting_key(known);
  const Result<v1::TaskAssignment> again = Completed(lasting, changing);
  // A field that one half forgets costs bytes, not the task.
  if (again.ok() && again->SerializeAsString() == assignment->SerializeAsString()) *assignment = std::move(changing);
}

Result<v1::TaskAssignment> Completed(const v1::TaskAssignment& lasting, const v1::TaskAssignment& sent) {
  if (sent.lasting_key() != LastingKey(lasting)) {
    return InvalidArgument("the assignment leaves out what this device does not keep");
  }
  v1::TaskAssignment whole = lasting;
  whole.MergeFrom(sent);
  whole.clear_lasting_key();
  whole.clear_ledger_patch();
  HEDDLE_RETURN_IF_ERROR(Validate(whole));
  return whole;
}

}  // namespace heddle::protocol
