#include "coordinator/service/run_json.h"

namespace heddle::coordinator {

std::string_view StateName(AssignmentState state) {
  switch (state) {
    case AssignmentState::kOpen:
      return "open";
    case AssignmentState::kAccepted:
      return "accepted";
    case AssignmentState::kLate:
      return "late";
    case AssignmentState::kInvalid:
      return "invalid";
    case AssignmentState::kSuperseded:
      return "superseded";
    case AssignmentState::kFailed:
      return "failed";
    case AssignmentState::kExpired:
      return "expired";
  }
  return "unknown";
}

std::string_view StateName(RunState state) {
  switch (state) {
    case RunState::kRunning:
      return "running";
    case RunState::kComplete:
      return "complete";
    case RunState::kStopped:
      return "stopped";
    case RunState::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string_view PhaseName(RoundPhase phase) {
  switch (phase) {
    case RoundPhase::kSelecting:
      return "selecting";
    case RoundPhase::kCollecting:
      return "collecting";
    case RoundPhase::kCommitting:
      return "committing";
    case RoundPhase::kCommitted:
      return "committed";
    case RoundPhase::kAbandoned:
      return "abandoned";
  }
  return "unknown";
}

}  // namespace heddle::coordinator
