// A federated run in one process: the coordinator's own engine, store and aggregation, and the devices' own local
// tasks, on a virtual clock. With the same recipe and seed it commits the same adapters, bit for bit, as a run over
// TLS; but where devices noise their updates, whose noise comes from the seed here and from their own secrets there.
//
// Devices check in at the start, take their assignment, train (for real, on a pool of threads, while the virtual clock
// says how long that would take on such a device), report, and check in again. Whatever the threads do, events happen
// in the order of the virtual clock, so a run depends on the recipe alone. The frozen base weights exist once in
// memory.
//
// A round's line of history.jsonl has also what the round cost the devices (meter.h) and, after rounds whose model was
// tested, how good it is (model_tests.h).
//
// Thread-safety: one call at a time per output folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "common/status.h"
#include "coordinator/service/run_core.h"
#include "simulator/world/meter.h"
#include "simulator/world/model_tests.h"

namespace heddle::simulator {

struct SimulationOptions {
  std::filesystem::path recipe;
  std::map<std::string, std::string> overrides;  // key -> value, over the recipe
  std::filesystem::path out;                     // run.json, history.jsonl, checkpoints/, data/, state/
  // What the test of a round's model said, as it comes.
  std::function<void(uint32_t round, const ModelFigures& figures)> tested;
  // After each round attempt; `false` ends the simulation (kCancelled).
  std::function<bool(const coordinator::RunProgress& progress)> progress;
};

struct SimulationResult {
  coordinator::RunRecord run;
  uint32_t rounds = 0;
  size_t devices = 0;
  size_t devices_without_memory = 0;  // of them: whose memory is too little for any task of the run
  coordinator::Traffic traffic;
  uint64_t base_model_bytes = 0;            // of traffic.down: the frozen base, once to every device that took part
  ModelFigures figures;                     // of the last round's model; empty when nothing was held out
  std::map<std::string, DeviceCost> costs;  // of the finished tasks, by profile
  double virtual_seconds = 0;
  double wall_seconds = 0;
};

// Errors: those of the recipe and its base model; kInvalidArgument when the recipe has no simulated devices or `out`
// holds something else; kFailedPrecondition when the run failed or was stopped; kCancelled.
Result<SimulationResult> Simulate(const SimulationOptions& options);

}  // namespace heddle::simulator
