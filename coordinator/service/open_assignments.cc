#include "coordinator/service/open_assignments.h"

namespace heddle::coordinator {

std::optional<OpenAssignments::Open> OpenAssignments::Find(const AssignmentId& id) const {
  std::lock_guard lock(mutex_);
  const auto found = open_.find(id);
  return found == open_.end() ? std::nullopt : std::optional(found->second);
}

void OpenAssignments::Add(const AssignmentRecord& record, const std::optional<Sha256Digest>& start,
                          const DeviceView& view) {
  std::lock_guard lock(mutex_);
  open_.insert_or_assign(record.id, Open{record.device, start, view});
}

void OpenAssignments::SetStart(const AssignmentId& id, const Sha256Digest& start) {
  std::lock_guard lock(mutex_);
  if (const auto found = open_.find(id); found != open_.end()) found->second.start = start;
}

void OpenAssignments::Remove(const AssignmentId& id) {
  std::lock_guard lock(mutex_);
  open_.erase(id);
}

void OpenAssignments::Clear() {
  std::lock_guard lock(mutex_);
  open_.clear();
}

}  // namespace heddle::coordinator
