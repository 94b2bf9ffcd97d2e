#include "simulator/simulate_run.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "client/worker/local_task.h"
#include "common/file.h"
#include "coordinator/recipe/base_folder.h"
#include "coordinator/service/run_files.h"
#include "simulator/report/report.h"
#include "simulator/world/devices.h"
#include "simulator/world/lone_training.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

// printf into a string, of a line or so.
template <typename... Values>
std::string Format(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

bool Interrupted(const SimulateSettings& settings) {
  return settings.interrupted != nullptr && settings.interrupted->load();
}

fs::path LastCheckpoint(const SimulateSettings& settings, uint32_t rounds) {
  return coordinator::RunFiles::CheckpointFolder(settings.out, rounds);
}

// `base`: the base model as devices have it.
Result<Figures> Evaluate(const coordinator::Recipe& recipe, const fs::path& base, const fs::path& adapter,
                         const fs::path& data, client::TaskResources& resources) {
  DeviceSet only;
  only.test = data;
  HEDDLE_ASSIGN_OR_RETURN(ModelFigures figures, TestModel(recipe, base, adapter, only, resources, {}));
  return std::move(figures.test);
}

// The first of these files that is there; empty: none.
fs::path FirstOf(const fs::path& folder, std::initializer_list<const char*> names) {
  std::error_code error;
  for (const char* name : names) {
    if (fs::exists(folder / name, error)) return folder / name;
  }
  return {};
}

// One machine with all devices' data: as many steps as a device of every round takes, each with the batches of a whole
// cohort (of cohorts of two sizes: of their mean).
Result<Figures> Centralised(const SimulateSettings& settings, const coordinator::Recipe& recipe, const fs::path& base) {
  const fs::path folder = settings.out / "centralised";
  const fs::path data = FirstOf(settings.out / "data", {"all.jsonl", "all-images-idx3-ubyte", "all.txt"});
  if (data.empty()) {
    return InvalidArgument("--centralised needs a recipe whose devices' data come from one source: split or kjv");
  }
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::RunMaterial material, coordinator::PrepareRun(recipe));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder / "initial"));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / "initial" / "adapter_config.json", material.adapter_config_json));
  HEDDLE_RETURN_IF_ERROR(
      WriteFileAtomically(folder / "initial" / "adapter_model.safetensors", material.initial_adapter_bytes));
  const auto resources = client::MakeTaskResources();
  const LoneTraining training = {.name = "centralised",
                                 .base_model = base,
                                 .initial_adapter = folder / "initial",
                                 .data = data,
                                 .batches = static_cast<uint32_t>(recipe.StepsOfAllCohorts() / recipe.StepsOfADevice()),
                                 .adapter = folder / "adapter"};
  HEDDLE_RETURN_IF_ERROR(TrainAlone(recipe, training, *resources, [&](uint32_t step, uint32_t steps, double loss) {
    if (settings.text && step % 50 == 0) std::fprintf(stderr, "centralised step %u/%u  loss %.4f\n", step, steps, loss);
    return !Interrupted(settings);
  }));
  // As the devices' model is tested (world/devices.cc).
  fs::path test = FirstOf(settings.out / "data", {"test.jsonl", "test-images-idx3-ubyte"});
  if (test.empty() && !recipe.simulation.test_data.empty()) test = recipe.simulation.test_data.front();
  if (test.empty()) test = FirstOf(settings.out / "data", {"heldout.txt"});
  return Evaluate(recipe, base, training.adapter, test, *resources);
}

Status Heldout(const SimulateSettings& settings, const coordinator::Recipe& recipe, const fs::path& base,
               SimulateOutcome* outcome) {
  const auto resources = client::MakeTaskResources();
  HEDDLE_ASSIGN_OR_RETURN(outcome->heldout_base, Evaluate(recipe, base, {}, settings.heldout, *resources));
  HEDDLE_ASSIGN_OR_RETURN(
      outcome->heldout_final,
      Evaluate(recipe, base, LastCheckpoint(settings, outcome->result.rounds), settings.heldout, *resources));
  return OkStatus();
}

// Bytes of a round without the base model, which a device fetches once.
double DownPerRound(const SimulationResult& result) {
  return static_cast<double>(result.traffic.down - result.base_model_bytes) / std::max(1U, result.rounds);
}
double UpPerRound(const SimulationResult& result) {
  return static_cast<double>(result.traffic.up) / std::max(1U, result.rounds);
}

void AddMembers(const std::string& prefix, const Figures& figures, std::string* out) {
  for (const auto& [name, value] : figures) {
    if (std::isfinite(value)) *out += Format(",\"%s%s\":%.9g", prefix.c_str(), name.c_str(), value);
  }
}

std::string FiguresText(const char* what, const Figures& figures) {
  if (figures.empty()) return "";
  std::string line = Format("%-18s", what);
  for (const auto& [name, value] : figures)
    line += Format("%s%s %.4f", &name == &figures[0].first ? "" : ", ", name.c_str(), value);
  return line + "\n";
}

std::string CostsText(const std::map<std::string, DeviceCost>& costs) {
  std::string out;
  for (const auto& [name, cost] : costs) {
    if (cost.transfer_seconds <= 0 && cost.compute_joules <= 0 && costs.size() < 2) continue;
    out += Format("profile %-10s%llu tasks, computing %.1f s, transfer %.1f s", name.c_str(),
                  static_cast<unsigned long long>(cost.tasks), cost.compute_seconds, cost.transfer_seconds);
    if (std::isfinite(cost.Granularity())) out += Format(", granularity %.3g", cost.Granularity());
    if (cost.compute_joules > 0) {
      out += Format(", %.1f J + %.1f J radio, %.3g tokens/J", cost.compute_joules, cost.radio_joules,
                    cost.TokensPerJoule());
    }
    if (cost.memory_bytes > 0)
      out += Format(", about %.0f MiB of memory", static_cast<double>(cost.memory_bytes) / 0x1p20);
    out += "\n";
  }
  return out;
}

std::map<std::string, std::string> OverridesOf(const SimulateSettings& settings, const SweepCell& cell) {
  std::map<std::string, std::string> overrides = settings.overrides;
  for (const auto& [key, value] : cell.overrides) overrides[key] = value;
  return overrides;
}

// All that can be told of a recipe before it runs.
Status CheckRecipe(const fs::path& path, const std::map<std::string, std::string>& overrides) {
  HEDDLE_ASSIGN_OR_RETURN(const auto recipe, coordinator::Recipe::Load(path, overrides));
  HEDDLE_RETURN_IF_ERROR(CheckDevices(recipe, path.string()));
  return coordinator::PrepareRun(recipe).status();
}

// A mistake in the last cell is not told after the hours that the others take.
Status CheckCells(const SimulateSettings& settings, const std::vector<SweepCell>& cells) {
  std::string mistakes;
  for (const SweepCell& cell : cells) {
    const Status status = CheckRecipe(settings.recipe, OverridesOf(settings, cell));
    if (!status.ok()) mistakes += "\n  " + (cell.name.empty() ? "" : cell.name + ": ") + status.message();
    if (Interrupted(settings)) return Cancelled("the sweep was interrupted");
  }
  return mistakes.empty() ? OkStatus()
                          : InvalidArgument("nothing of the sweep has run; change what it varies:" + mistakes);
}

}  // namespace

Result<SimulateOutcome> SimulateOnce(const SimulateSettings& settings) {
  SimulationOptions options;
  options.recipe = settings.recipe;
  options.overrides = settings.overrides;
  options.out = settings.out;
  options.progress = [&](const coordinator::RunProgress& p) {
    if (settings.text) {
      const std::string loss = p.last_train_loss ? Format("  loss %.4f", *p.last_train_loss) : "";
      std::fprintf(stderr, "round %u/%u  attempt %u  updates %zu%s\n", p.round, p.rounds, p.attempt, p.accepted,
                   loss.c_str());
    }
    return !Interrupted(settings);
  };
  if (settings.text) {
    options.tested = [](uint32_t round, const ModelFigures& figures) {
      std::fprintf(stderr, "round %u  %s%s", round, FiguresText("test", figures.test).c_str(),
                   FiguresText("mean of devices", figures.device).c_str());
    };
  }
  SimulateOutcome outcome;
  HEDDLE_ASSIGN_OR_RETURN(const auto recipe, coordinator::Recipe::Load(settings.recipe, settings.overrides));
  const coordinator::SimulatedDevices& sim = recipe.simulation;
  if (settings.centralised && sim.source == "split" && sim.test_fraction == 0 && sim.test_data.empty())
    return InvalidArgument("--centralised needs simulation.test_fraction or test_data: examples held out from devices");
  HEDDLE_ASSIGN_OR_RETURN(outcome.result, Simulate(options));
  HEDDLE_ASSIGN_OR_RETURN(outcome.adapter, coordinator::RunFiles::AdapterDigest(settings.out, outcome.result.rounds));
  HEDDLE_ASSIGN_OR_RETURN(const fs::path base, coordinator::DeviceBaseFolder(recipe, settings.out));
  outcome.guarantee = recipe.Guarantee();
  if (settings.centralised) {
    HEDDLE_ASSIGN_OR_RETURN(outcome.centralised, Centralised(settings, recipe, base));
  }
  if (!settings.heldout.empty()) HEDDLE_RETURN_IF_ERROR(Heldout(settings, recipe, base, &outcome));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(settings.out / "summary.json", OutcomeJson(outcome) + "\n"));
  HEDDLE_RETURN_IF_ERROR(WriteReport(settings.out));
  return outcome;
}

std::string OutcomeText(const SimulateSettings& settings, const SimulateOutcome& outcome) {
  const SimulationResult& result = outcome.result;
  std::string out = Format(
      "run               %s\nrounds            %u with %zu devices\nmodel_sha256      %s\nadapter_sha256    %s\n",
      result.run.id.value().c_str(), result.rounds, result.devices, result.run.model.ToHex().c_str(),
      outcome.adapter.ToHex().c_str());
  if (result.devices_without_memory > 0)
    out += Format("without memory    %zu devices, which no task of the run fits\n", result.devices_without_memory);
  out += Format("simulated time    %.1f s\nwall time         %.1f s\nbytes down, up    %llu, %llu\n",
                result.virtual_seconds, result.wall_seconds, static_cast<unsigned long long>(result.traffic.down),
                static_cast<unsigned long long>(result.traffic.up));
  out += Format("a round           %.0f bytes down, %.0f up, without the base model\n", DownPerRound(result),
                UpPerRound(result));
  out += CostsText(result.costs);
  out += FiguresText("test", result.figures.test) + FiguresText("mean of devices", result.figures.device) +
         FiguresText("centralised", outcome.centralised);
  if (!outcome.heldout_final.empty()) {
    const double perplexity = FigureOf(outcome.heldout_final, "perplexity");
    if (std::isfinite(perplexity)) {
      out += Format("perplexity        %.3f, base %.3f\n", perplexity, FigureOf(outcome.heldout_base, "perplexity"));
    } else {
      out += FiguresText("held out", outcome.heldout_final) + FiguresText("base", outcome.heldout_base);
    }
  }
  if (outcome.guarantee) out += "privacy           " + outcome.guarantee->ToText() + "\n";
  return out + "report            " + (settings.out / "report.html").string() + "\n";
}

std::string OutcomeJson(const SimulateOutcome& outcome) {
  const SimulationResult& result = outcome.result;
  std::string out = Format(
      "{\"run_id\":\"%s\",\"rounds\":%u,\"devices\":%zu,\"model_sha256\":\"%s\",\"adapter_sha256\":\"%s\",\"virtual_"
      "seconds\":%.6f,"
      "\"wall_seconds\":%.3f,",
      result.run.id.value().c_str(), result.rounds, result.devices, result.run.model.ToHex().c_str(),
      outcome.adapter.ToHex().c_str(), result.virtual_seconds, result.wall_seconds);
  out += Format(
      "\"bytes_down\":%llu,\"bytes_up\":%llu,\"base_model_bytes\":%llu,\"bytes_down_per_round\":%.9g,\"bytes_up_per_"
      "round\":%.9g",
      static_cast<unsigned long long>(result.traffic.down), static_cast<unsigned long long>(result.traffic.up),
      static_cast<unsigned long long>(result.base_model_bytes), DownPerRound(result), UpPerRound(result));
  if (result.devices_without_memory > 0)
    out += Format(",\"devices_without_memory\":%zu", result.devices_without_memory);
  if (const std::string figures = FiguresJson(result.figures); !figures.empty()) out += "," + figures;
  AddMembers("centralised_", outcome.centralised, &out);
  const double base = FigureOf(outcome.heldout_base, "perplexity"),
               final = FigureOf(outcome.heldout_final, "perplexity");
  if (std::isfinite(base) && std::isfinite(final)) {
    out += Format(",\"perplexity\":%f,\"base_perplexity\":%f", final, base);
  } else {
    AddMembers("heldout_", outcome.heldout_final, &out);
    AddMembers("heldout_base_", outcome.heldout_base, &out);
  }
  if (outcome.guarantee) {
    out +=
        Format(",\"epsilon\":%.9g,\"delta\":%.9g", outcome.guarantee->any_data.epsilon_run, outcome.guarantee->delta);
  }
  std::string profiles;
  for (const auto& [name, cost] : result.costs) {
    profiles += Format("%s\"%s\":{\"tasks\":%llu,", profiles.empty() ? "" : ",", name.c_str(),
                       static_cast<unsigned long long>(cost.tasks)) +
                CostJson(cost) + "}";
  }
  return out + ",\"profiles\":{" + profiles + "}}";
}

Result<std::vector<SweepRun>> SimulateSweep(const SimulateSettings& settings, const std::vector<SweepCell>& cells,
                                            const std::vector<uint64_t>& seeds) {
  HEDDLE_RETURN_IF_ERROR(CheckOldRuns(settings.out, cells.size(), seeds));
  HEDDLE_RETURN_IF_ERROR(CheckCells(settings, cells));
  std::error_code error;
  for (const char* old : {"sweep.json", "sweep.txt"}) fs::remove(settings.out / old, error);  // of an earlier sweep
  std::vector<SweepRun> runs;
  for (size_t c = 0; c < cells.size(); ++c) {
    for (const uint64_t seed : seeds) {
      SimulateSettings one = settings;
      one.overrides = OverridesOf(settings, cells[c]);
      one.overrides["seed"] = std::to_string(seed);
      one.out = FolderOf(settings.out, c, seed);
      SweepRun run{c, seed, {}, ""};
      const auto outcome = SimulateOnce(one);
      if (Interrupted(settings)) return Cancelled("the sweep was interrupted");
      if (outcome.ok()) {
        for (const auto& [name, value] : outcome->result.figures.test) run.figures.emplace_back("test_" + name, value);
        for (const auto& [name, value] : outcome->result.figures.device)
          run.figures.emplace_back("device_" + name, value);
        if (outcome->result.figures.device.size() > 1) {
          run.figures.emplace_back("worst_device_" + outcome->result.figures.device[1].first,
                                   outcome->result.figures.device_min);
        }
        for (const auto& [name, value] : outcome->centralised) run.figures.emplace_back("centralised_" + name, value);
        run.figures.emplace_back("down/round", DownPerRound(outcome->result));
        run.figures.emplace_back("up/round", UpPerRound(outcome->result));
        run.figures.emplace_back("seconds", outcome->result.wall_seconds);
      } else {
        run.error = outcome.status().message();
      }
      if (settings.text)
        std::fprintf(stderr, "%s seed=%llu %s\n", cells[c].name.c_str(), static_cast<unsigned long long>(seed),
                     run.error.empty() ? "done" : run.error.c_str());
      runs.push_back(std::move(run));
      // What there is so far, for whoever looks or interrupts.
      HEDDLE_RETURN_IF_ERROR(MakeDirectories(settings.out));
      HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(settings.out / "sweep.json", SweepJson(cells, runs) + "\n"));
      HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(settings.out / "sweep.txt", SweepTable(cells, runs)));
    }
  }
  return runs;
}

}  // namespace heddle::simulator
