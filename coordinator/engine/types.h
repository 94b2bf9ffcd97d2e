// The nouns of a run, shared by the engine, the store and the service: plain values, no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/digest.h"
#include "common/ids.h"

namespace heddle::coordinator {

// What the engine needs to know of a recipe. Immutable during a run.
struct RunSpec {
  RunId id;
  uint64_t seed = 0;
  std::string local_task;              // a device must offer it to be selected
  uint32_t rounds = 1;                 // commits until the run is complete
  uint32_t cohort_size = 1;            // reports that close a round
  double over_selection = 1.0;         // ceil(cohort_size * over_selection) devices get the task; >= 1
  uint32_t min_available_devices = 1;  // devices waiting before a round selects; >= ceil(cohort_size * over_selection)
                                       // gives a selection that does not depend on the order of arrival
  uint32_t min_reports = 1;            // accepted reports with which a round may commit at its deadline; <= cohort_size
  // In rounds above this one the three sizes are those that follow (engine.h: SizesOf). 0: there is one stage.
  uint32_t first_stage_rounds = 0;
  uint32_t later_cohort_size = 0, later_min_available_devices = 0, later_min_reports = 0;
  Duration selection_timeout =
      Seconds(600);  // after it a round selects from at least min_reports waiting devices, or is abandoned
  Duration report_deadline = Seconds(600);  // from selection to commit or abandon
  uint32_t max_abandoned_attempts = 0;      // abandoned attempts in a row before the run fails; 0: no limit
  Duration max_poll_hold = Seconds(300);    // a waiting check-in is answered POLL_AGAIN after this, less jitter
  Duration min_retry_after = Seconds(1);    // bounds of retry_after in rejections; jitter is drawn between them
  Duration max_retry_after = Seconds(60);
  uint64_t max_update_bytes = 0;
  uint64_t max_num_examples = 1'000'000;
  // Of a device that trains 1, 2, .. layers the memory in bytes that it needs; a device gets as many as its own allows.
  // Empty: nobody asks for its memory. At most kMostLayers.
  std::vector<uint64_t> layer_memory;
};

inline constexpr uint32_t kMostLayers = 4096;

enum class RunState : int { kRunning = 0, kComplete = 1, kStopped = 2, kFailed = 3 };  // stored: never renumber
enum class RoundPhase : int {
  kSelecting = 0,
  kCollecting = 1,
  kCommitting = 2,
  kCommitted = 3,
  kAbandoned = 4
};                                  // stored
enum class AssignmentState : int {  // stored
  kOpen = 0,
  kAccepted = 1,  // in the sum of its round
  kLate = 2,
  kInvalid = 3,
  kSuperseded = 4,
  kFailed = 5,   // the device reported a failed or interrupted task
  kExpired = 6,  // the round closed without a report
};

struct RunRecord {
  RunId id;
  RunState state = RunState::kRunning;
  uint32_t committed_rounds = 0;  // version of the model
  Sha256Digest model;             // adapter blob of that version (of the initial adapter at 0)
  std::string reason;             // why stopped or failed
  Time started_at, ended_at;
};

// One attempt of one round. Key: (run, round, attempt).
struct RoundRecord {
  RunId run;
  uint32_t round = 1;
  uint32_t attempt = 1;
  RoundPhase phase = RoundPhase::kSelecting;
  Time started_at;
  Time selected_at;
  Time deadline;  // of the present phase
  Time ended_at;
  Sha256Digest parent;  // model the devices start from
  Sha256Digest model;   // committed model; zero before
  std::string reason;   // why abandoned
};

// What a device said of its task.
struct ReportMetrics {
  uint64_t num_examples = 0;
  uint64_t num_tokens = 0;
  uint32_t steps = 0;
  double train_loss = 0, first_loss = 0, last_loss = 0;
  double train_seconds = 0;
  uint64_t peak_memory_bytes = 0;
};

struct AssignmentRecord {
  AssignmentId id;
  RunId run;
  uint32_t round = 1;
  uint32_t attempt = 1;
  DeviceId device;
  uint32_t layers = 0;  // that its memory allows; 0: its memory was not asked for
  AssignmentState state = AssignmentState::kOpen;
  Time issued_at;
  Time reported_at;
  Sha256Digest update;  // with kAccepted
  uint64_t update_bytes = 0;
  int refusal_reason = 0;  // heddle.v1.RefusalReason with kInvalid
  std::string message;     // why invalid or failed
  ReportMetrics metrics;
};

}  // namespace heddle::coordinator
