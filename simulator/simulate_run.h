// What heddle-simulate does with a recipe: one run and what is measured of it, or a sweep of runs; and how it is told.
// Private to the program.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aggregation/privacy/accountant.h"
#include "common/digest.h"
#include "common/status.h"
#include "simulator/sweep/sweep.h"
#include "simulator/world/simulation.h"

namespace heddle::simulator {

struct SimulateSettings {
  std::filesystem::path recipe, out;
  std::map<std::string, std::string> overrides;
  std::string heldout;       // file: the final adapter's and the base model's perplexity on it
  bool centralised = false;  // as well one machine with all devices' data
  bool text = true;          // progress on stderr
  const std::atomic<bool>* interrupted = nullptr;
};

struct SimulateOutcome {
  SimulationResult result;
  Sha256Digest adapter;                            // of the last checkpoint's adapter_model.safetensors
  Figures heldout_base, heldout_final;             // of --heldout
  Figures centralised;                             // on the recipe's test data
  std::optional<privacy::RunGuarantee> guarantee;  // where devices noise their updates
};

// One run into settings.out, with report.html and summary.json. Errors: those of Simulate, of the tests and of files.
Result<SimulateOutcome> SimulateOnce(const SimulateSettings& settings);

// What a run says of itself, as lines for people or as one JSON object without its end of line.
std::string OutcomeText(const SimulateSettings& settings, const SimulateOutcome& outcome);
std::string OutcomeJson(const SimulateOutcome& outcome);

// The runs of every cell with every seed, each in a folder of its own under settings.out; a run that fails does not end
// the others. With sweep.json and sweep.txt. Errors: kInvalidArgument before the first run, for cells that cannot run
// and for runs of an earlier sweep that would stay; kCancelled; those of files.
Result<std::vector<SweepRun>> SimulateSweep(const SimulateSettings& settings, const std::vector<SweepCell>& cells,
                                            const std::vector<uint64_t>& seeds);

}  // namespace heddle::simulator
