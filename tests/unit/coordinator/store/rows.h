// Rows for the tests of the store: every field differs from its default and from every other.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/store/store.h"

namespace heddle::coordinator::testing {

inline Time At(int64_t seconds) { return FromUnixMicros(1'700'000'000'000'000 + seconds * 1'000'000 + 123456); }

inline RunSpec FullSpec(const std::string& id) {
  RunSpec spec;
  spec.id = RunId(id);
  spec.seed = ~uint64_t{0} - 3;
  spec.local_task = "lora_sft";
  spec.rounds = 5;
  spec.cohort_size = 6;
  spec.over_selection = 1.1;  // no short binary fraction
  spec.min_available_devices = 7;
  spec.min_reports = 4;
  spec.first_stage_rounds = 3;
  spec.later_cohort_size = 16;
  spec.later_min_available_devices = 17;
  spec.later_min_reports = 14;
  spec.selection_timeout = Duration(1234567);
  spec.report_deadline = Duration(7654321);
  spec.max_abandoned_attempts = 8;
  spec.max_poll_hold = Duration(9);
  spec.min_retry_after = Duration(10);
  spec.max_retry_after = Duration(11);
  spec.max_update_bytes = uint64_t{1} << 40;
  spec.max_num_examples = 12;
  spec.layer_memory = {uint64_t{1} << 33, ~uint64_t{0}};
  return spec;
}

inline RunRecord ARun(const std::string& id, RunState state = RunState::kRunning) {
  RunRecord run;
  run.id = RunId(id);
  run.state = state;
  run.committed_rounds = 2;
  run.model = Sha256("model of " + id);
  run.reason = "a 'reason' with \"quotes\" and ünïcode";
  run.started_at = At(1);
  run.ended_at = At(2);
  return run;
}

inline RoundRecord ARound(const std::string& run, uint32_t round, uint32_t attempt,
                          RoundPhase phase = RoundPhase::kCollecting) {
  std::string name = run + std::to_string(round) + "." + std::to_string(attempt);
  RoundRecord row;
  row.run = RunId(run);
  row.round = round;
  row.attempt = attempt;
  row.phase = phase;
  row.started_at = At(3);
  row.selected_at = At(4);
  row.deadline = At(5);
  row.ended_at = At(6);
  row.parent = Sha256("parent " + name);
  row.model = Sha256("model " + name);
  row.reason = "why";
  return row;
}

inline AssignmentRecord AnAssignment(const std::string& run, uint32_t round, uint32_t attempt,
                                     const std::string& device, AssignmentState state = AssignmentState::kOpen) {
  std::string name = run + std::to_string(round) + "." + std::to_string(attempt) + device;
  AssignmentRecord row;
  row.id = AssignmentId(Sha256(name).ToHex().substr(0, 32));
  row.run = RunId(run);
  row.round = round;
  row.attempt = attempt;
  row.device = DeviceId(device);
  row.layers = 2;
  row.state = state;
  row.issued_at = At(7);
  row.reported_at = At(8);
  row.update = Sha256("update " + name);
  row.update_bytes = uint64_t{1} << 33;
  row.refusal_reason = 7;
  row.message = "message";
  row.metrics = {.num_examples = ~uint64_t{0},
                 .num_tokens = 14,
                 .steps = 15,
                 .train_loss = 1.0 / 3,
                 .first_loss = -2.5,
                 .last_loss = 1e-300,
                 .train_seconds = 16.5,
                 .peak_memory_bytes = 17};
  return row;
}

inline RunOrigin AnOrigin(const std::string& id) {
  return {.spec = FullSpec(id), .recipe = "name = \"x\"\n", .resolved_json = "{\"a\":1}", .material_json = "{\"b\":2}"};
}

// One text with every field, for comparisons that show what differs.
std::string Show(const RunRecord& run);
std::string Show(const RoundRecord& round);
std::string Show(const AssignmentRecord& assignment);

}  // namespace heddle::coordinator::testing
