#include "tests/unit/coordinator/store/rows.h"

#include <sstream>

namespace heddle::coordinator::testing {

std::string Show(const RunRecord& run) {
  std::ostringstream out;
  out << run.id << " state " << static_cast<int>(run.state) << " committed " << run.committed_rounds << " model "
      << run.model << " reason " << run.reason << " from " << ToUnixMicros(run.started_at) << " to "
      << ToUnixMicros(run.ended_at);
  return out.str();
}

std::string Show(const RoundRecord& r) {
  std::ostringstream out;
  out << r.run << " " << r.round << "." << r.attempt << " phase " << static_cast<int>(r.phase) << " times "
      << ToUnixMicros(r.started_at) << " " << ToUnixMicros(r.selected_at) << " " << ToUnixMicros(r.deadline) << " "
      << ToUnixMicros(r.ended_at) << " parent " << r.parent << " model " << r.model << " reason " << r.reason;
  return out.str();
}

std::string Show(const AssignmentRecord& a) {
  std::ostringstream out;
  out << std::hexfloat << a.id << " " << a.run << " " << a.round << "." << a.attempt << " " << a.device << " layers "
      << a.layers << " state " << static_cast<int>(a.state) << " times " << ToUnixMicros(a.issued_at) << " "
      << ToUnixMicros(a.reported_at) << " update " << a.update << " " << a.update_bytes << " refusal "
      << a.refusal_reason << " " << a.message << " " << a.metrics.num_examples << " " << a.metrics.num_tokens << " "
      << a.metrics.steps << " " << a.metrics.train_loss << " " << a.metrics.first_loss << " " << a.metrics.last_loss
      << " " << a.metrics.train_seconds << " " << a.metrics.peak_memory_bytes;
  return out.str();
}

}  // namespace heddle::coordinator::testing
