// heddle-simulate: runs a recipe's simulated devices in this process. Exit status: 0 complete, 1 failed, 2 wrong usage.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <iostream>
#include <string>
#include <vector>

#include "common/build_info.h"
#include "common/config.h"
#include "common/logging.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"
#include "simulator/simulate_run.h"

namespace heddle::simulator {
namespace {

std::atomic<bool> interrupted{false};

int Fail(const Status& status, int code = 1) {
  std::cerr << "heddle-simulate: " << status.message() << "\n";
  return code;
}

int RunSweep(const SimulateSettings& settings, const std::vector<std::string>& vary, const std::string& seeds) {
  const auto cells = MakeCells(vary);
  if (!cells.ok()) return Fail(cells.status(), 2);
  // Without --seeds: the recipe's own.
  std::vector<uint64_t> numbers;
  if (!seeds.empty()) {
    auto parsed = ParseSeeds(seeds);
    if (!parsed.ok()) return Fail(parsed.status(), 2);
    numbers = *std::move(parsed);
  } else {
    const auto recipe = coordinator::Recipe::Load(settings.recipe, settings.overrides);
    if (!recipe.ok()) return Fail(recipe.status());
    numbers = {recipe->seed};
  }
  const auto runs = SimulateSweep(settings, *cells, numbers);
  if (!runs.ok()) return Fail(runs.status());
  std::cout << (settings.text ? SweepTable(*cells, *runs) : SweepJson(*cells, *runs) + "\n");
  return std::all_of(runs->begin(), runs->end(), [](const SweepRun& run) { return run.error.empty(); }) ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app("Runs a recipe with simulated devices in this process, on a virtual clock.", "heddle-simulate");
  SimulateSettings settings;
  std::vector<std::string> assignments, vary;
  std::string out = "heddle-simulation", format = "text", seeds;
  app.add_option("RECIPE", settings.recipe, "recipe.toml")->required();
  app.add_option("-o,--out", out, "folder for run.json, history.jsonl, checkpoints/, report.html")
      ->capture_default_str();
  app.add_option("--set", assignments, "key=value, over the recipe (repeatable)");
  app.add_option("--vary", vary, "key=value,value,…: a run with each (repeatable: every combination)");
  app.add_option("--seeds", seeds, "1,2,3 or 1-3: a run with each, and a table of means and spreads");
  app.add_flag("--centralised", settings.centralised, "as well one machine with all data, for as many steps");
  app.add_option("--heldout", settings.heldout, "file: tests the final adapter and the base model on it");
  app.add_option("--format", format, "text or json")->check(CLI::IsMember({"text", "json"}));
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto overrides = ParseSettings(assignments);
  if (!overrides.ok()) return Fail(overrides.status(), 2);
  settings.overrides = *std::move(overrides);
  settings.out = out;
  settings.text = format == "text";
  settings.interrupted = &interrupted;
  LogOptions log;
  log.level = "warning";
  if (Status status = InitLogging(log); !status.ok()) return Fail(status);
  model::UseTensorMemory(model::kServerSpare);
  model::WarnOfSlowBlas();
  ::signal(SIGINT, [](int) { interrupted = true; });
  ::signal(SIGTERM, [](int) { interrupted = true; });
  if (!vary.empty() || !seeds.empty()) return RunSweep(settings, vary, seeds);
  const auto outcome = SimulateOnce(settings);
  if (!outcome.ok()) return Fail(outcome.status());
  std::cout << (settings.text ? OutcomeText(settings, *outcome) : OutcomeJson(*outcome) + "\n");
  return 0;
}

}  // namespace
}  // namespace heddle::simulator

int main(int argc, char** argv) {
  try {
    return heddle::simulator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-simulate: " << error.what() << "\n";
    return 1;
  }
}
