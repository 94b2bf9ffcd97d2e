// The assignments devices are at work on, for whoever looks at an update before the run's thread does. A report may
// still find its assignment closed.
//
// Owned by the run, shared with who asks; it may outlive the run and then says what was open at the end. Thread-safety:
// any thread.
#pragma once

#include <map>
#include <mutex>
#include <optional>

#include "coordinator/engine/types.h"
#include "coordinator/recipe/recipe.h"

namespace heddle::coordinator {

class OpenAssignments {
 public:
  struct Open {
    DeviceId device;
    std::optional<Sha256Digest> start;  // the adapter that its training starts from; nothing while that cannot be read
    DeviceView view;                    // what of the model that is
  };
  std::optional<Open> Find(const AssignmentId& id) const;

  void Add(const AssignmentRecord& record, const std::optional<Sha256Digest>& start, const DeviceView& view);
  // Nothing happens when it is not open.
  void SetStart(const AssignmentId& id, const Sha256Digest& start);
  void Remove(const AssignmentId& id);
  void Clear();

 private:
  mutable std::mutex mutex_;
  std::map<AssignmentId, Open> open_;
};

}  // namespace heddle::coordinator
