// A whole run of split learning in one process: the machines of coordinator/split and client/split, whose frames are
// handed over in memory. What a run over TLS with one copy of the server's part for each device makes, this makes too.
//
// Thread-safety: a function of its own files. Include only from translation units of targets with TORCH.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "protocol/split/plan.h"

namespace heddle::simulator {

struct SplitRunOptions {
  protocol::SplitPlan plan;
  std::map<std::string, std::filesystem::path> devices;  // name to data; at least plan.devices_per_round
  std::filesystem::path test_data;                       // empty: no evaluation
  std::filesystem::path folder;                          // of the server: state and rounds
  std::string compute = "cpu";                           // what both sides compute on: "cpu" or "cuda"
};

struct SplitRound {
  uint32_t round = 0;               // 0: before the first
  double train_loss = 0;            // of the devices' last steps, the mean
  double test_loss = 0;             // over all of test_data; nats a token, or as the head counts
  double distance_correlation = 0;  // where the plan asks for it: of embeddings and activations, the devices' mean
  uint64_t bytes_up = 0, bytes_down = 0, steps = 0, examples = 0;  // of all devices, so far
};

// One device after the other has its round to itself, in the order of their names, so that the outcome is the same each
// time; with a server that computes for several at once (split.server_batch, or steps of all in parallel), all have the
// round together, or as many of them at a time as there are places (split.max_sessions, split.memory_limit_mb).
// `progress` is called after each round, and before the first. Errors: kFailedPrecondition for too few devices, and
// for a round that does not end because devices are refused again and again; those of the machines and of the files.
Result<std::vector<SplitRound>> RunSplit(const SplitRunOptions& options,
                                         const std::function<void(const SplitRound&)>& progress = {});

}  // namespace heddle::simulator
