// heddle-demo: the main job on one machine. A coordinator and its devices as processes of their own fine-tune LoRA
// adapters over TLS; then the result is compared with the base model, with devices alone and with a centralised run.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "common/config.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "coordinator/recipe/recipe.h"
#include "coordinator/service/run_files.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"
#include "peft/adapter/adapter.h"
#include "simulator/corpus/kjv.h"
#include "simulator/demo/baselines.h"
#include "simulator/demo/fleet.h"
#include "simulator/demo/progress.h"
#include "simulator/report/report.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::atomic<bool> interrupted{false};

struct DemoOptions {
  fs::path out, source, recipe;
  std::vector<std::string> settings;
};

double Number(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : NAN;
}

std::string Text(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? json::value_to<std::string>(*value) : "";
}

class Demo {
 public:
  explicit Demo(DemoOptions options) : options_(std::move(options)) {}
  Status Run();

 private:
  Status Prepare();
  Status StartFleet();
  Status Federate();
  Status CollectRun();
  Status Compare();
  Status WriteSummary();
  void PrintTable() const;
  void ShowRound(const json::object& run);

  DemoOptions options_;
  coordinator::Recipe recipe_;
  KjvFiles data_;
  std::unique_ptr<Fleet> fleet_;
  json::object run_;
  Sha256Digest adapter_;
  Baselines baselines_;
  ProgressLine line_;
  TimeLeft time_;
  double last_round_ = 0;
};

// Only what an earlier demo left is cleared away.
Status ClearOut(const fs::path& out) {
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error) && !fs::exists(out / ".heddle-demo", error)) {
    return InvalidArgument(out.string() + " holds something that is not a demo's; name another folder with --out");
  }
  for (const char* name :
       {"run.json", "history.jsonl", "checkpoints", "report.html", "summary.json", "processes", "data", "baselines"}) {
    fs::remove_all(out / name, error);
    if (error) return ErrnoStatus(error.value(), "cannot clear " + (out / name).string());
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  return WriteFileAtomically(out / ".heddle-demo", "This folder is a demo's: the next one into it clears it.\n");
}

Status Demo::Prepare() {
  HEDDLE_ASSIGN_OR_RETURN(const auto overrides, ParseSettings(options_.settings));
  HEDDLE_ASSIGN_OR_RETURN(recipe_, coordinator::Recipe::Load(options_.recipe, overrides));
  HEDDLE_RETURN_IF_ERROR(ClearOut(options_.out));
  HEDDLE_ASSIGN_OR_RETURN(data_, WriteKjv(options_.out / "data", recipe_.simulation.names));
  // What round 1 starts from, for the baselines; the coordinator makes the same from the same recipe.
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::RunMaterial material, coordinator::PrepareRun(recipe_));
  const fs::path initial = options_.out / "baselines" / "initial";
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(initial));
  HEDDLE_ASSIGN_OR_RETURN(const auto config, peft::AdapterConfig::FromJson(material.adapter_config_json));
  return peft::WriteAdapter(initial, config, material.initial_adapter);
}

Status Demo::StartFleet() {
  std::error_code error;
  FleetOptions fleet;
  fleet.folder = options_.out / "processes";
  fleet.bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return ErrnoStatus(error.value(), "cannot find the programs");
  fleet_ = std::make_unique<Fleet>(std::move(fleet));
  line_.Show("starting the coordinator", true);
  HEDDLE_RETURN_IF_ERROR(fleet_->StartCoordinator());
  for (size_t i = 0; i < recipe_.simulation.names.size(); ++i) {
    if (interrupted) return Cancelled("interrupted");
    line_.Show("enrolling and starting " + recipe_.simulation.names[i], true);
    // The worker stays between rounds: the model is read once.
    HEDDLE_RETURN_IF_ERROR(fleet_->AddDevice(recipe_.simulation.names[i], data_.parts[i],
                                             {{"worker.keep_alive_s", "60"}, {"worker.nice", "0"}}));
  }
  return OkStatus();
}

void Demo::ShowRound(const json::object& run) {
  const double rounds = Number(run, "rounds"), round = Number(run, "committed_rounds");
  const double cohort = std::max(1.0, Number(run, "cohort_size"));
  const double share = (round + (round < rounds ? Number(run, "reports_accepted") / cohort : 0)) / rounds;
  char text[256];
  std::snprintf(text, sizeof text,
                "%s round %.0f/%.0f  devices %.0f at work, %.0f of %.0f done  loss %s  %s down, %s up  left %s",
                BarText(share, 20).c_str(), std::min(round + 1, rounds), rounds, Number(run, "devices_at_work"),
                Number(run, "reports_accepted"), cohort,
                run.contains("train_loss") ? std::to_string(Number(run, "train_loss")).substr(0, 6).c_str() : "-",
                Bytes(Number(run, "bytes_down")).c_str(), Bytes(Number(run, "bytes_up")).c_str(),
                Minutes(time_.Left(share)).c_str());
  line_.Show(text, round > last_round_);
  last_round_ = round;
}

Status Demo::Federate() {
  std::vector<std::string> submit = {"heddle", "--config", (fleet_->folder() / "coordinator.toml").string(),
                                     "run",    "submit",   options_.recipe.string()};
  for (const std::string& setting : options_.settings) submit.insert(submit.end(), {"--set", setting});
  HEDDLE_ASSIGN_OR_RETURN(std::string id, fleet_->RunTool(submit));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  time_ = TimeLeft();
  std::string version = "0";
  for (;;) {
    if (interrupted) return Cancelled("interrupted");
    // A terminal's Ctrl-C reaches the daemons too.
    if (Status alive = fleet_->CheckAlive(); !alive.ok()) return interrupted ? Cancelled("interrupted") : alive;
    HEDDLE_ASSIGN_OR_RETURN(run_, fleet_->admin().Get("/v1/runs/" + id + ":watch?timeout_s=2&version=" + version));
    ShowRound(run_);
    if (const json::value* number = run_.if_contains("version")) version = json::serialize(*number);
    const std::string state = Text(run_, "state");
    if (state == "complete") break;
    if (state != "running") return Internal("the run ended as " + state + ": " + Text(run_, "reason"));
  }
  line_.End();
  return OkStatus();
}

Status Demo::CollectRun() {
  const fs::path folder = Text(run_, "folder");
  std::error_code error;
  for (const char* name : {"run.json", "history.jsonl", "checkpoints"}) {
    fs::copy(folder / name, options_.out / name, fs::copy_options::recursive | fs::copy_options::overwrite_existing,
             error);
    if (error) return ErrnoStatus(error.value(), "cannot copy " + (folder / name).string());
  }
  HEDDLE_ASSIGN_OR_RETURN(adapter_, coordinator::RunFiles::AdapterDigest(options_.out, recipe_.spec.rounds));
  return fleet_->Stop();
}

Status Demo::Compare() {
  BaselineOptions options;
  options.recipe = recipe_;
  options.device_data = data_.parts;
  options.all_data = data_.all;
  options.heldout = data_.heldout;
  options.initial_adapter = options_.out / "baselines" / "initial";
  options.scratch = options_.out / "baselines";
  options.federated_adapter = coordinator::RunFiles::CheckpointFolder(options_.out, recipe_.spec.rounds);
  line_.Show("comparing: devices alone and a centralised run, then held-out text", true);
  const TimeLeft time;
  options.progress = [&](const std::string& what, double done) {
    line_.Show(BarText(done, 20) + " " + what + "  left " + Minutes(time.Left(done)), false);
    return !interrupted.load();
  };
  HEDDLE_ASSIGN_OR_RETURN(baselines_, MeasureBaselines(options));
  line_.End();
  return OkStatus();
}

Status Demo::WriteSummary() {
  json::array alone;
  for (double value : baselines_.local_each) alone.push_back(value);
  const json::object summary = {{"base_perplexity", baselines_.base},
                                {"local_only_perplexity", baselines_.local_only},
                                {"federated_perplexity", baselines_.federated},
                                {"centralised_perplexity", baselines_.centralised},
                                {"rounds", recipe_.spec.rounds},
                                {"devices", recipe_.simulation.names.size()},
                                {"bytes_down", run_.at("bytes_down")},
                                {"bytes_up", run_.at("bytes_up")},
                                {"adapter_sha256", adapter_.ToHex()},
                                {"run_id", run_.at("run_id")},
                                {"local_only_perplexities", std::move(alone)}};
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(options_.out / "summary.json", json::serialize(summary) + "\n"));
  return WriteReport(options_.out);
}

void Demo::PrintTable() const {
  const auto row = [&](const char* name, double value) {
    std::printf("  %-38s %8.2f   %+6.1f %%\n", name, value, 100 * (value / baselines_.base - 1));
  };
  std::printf("\nHeld-out perplexity (every twentieth chapter of the King James Bible)\n\n");
  row("base model", baselines_.base);
  row("devices alone (mean)", baselines_.local_only);
  row("federated adapter", baselines_.federated);
  row("centralised, the same number of steps", baselines_.centralised);
  std::printf("\n%u rounds, %zu devices, %s down, %s up, adapter %s\n", recipe_.spec.rounds,
              recipe_.simulation.names.size(), Bytes(Number(run_, "bytes_down")).c_str(),
              Bytes(Number(run_, "bytes_up")).c_str(), adapter_.ToHex().substr(0, 16).c_str());
  std::printf("report: %s\n", (options_.out / "report.html").c_str());
}

Status Demo::Run() {
  HEDDLE_RETURN_IF_ERROR(Prepare());
  HEDDLE_RETURN_IF_ERROR(StartFleet());
  HEDDLE_RETURN_IF_ERROR(Federate());
  HEDDLE_RETURN_IF_ERROR(CollectRun());
  HEDDLE_RETURN_IF_ERROR(Compare());
  HEDDLE_RETURN_IF_ERROR(WriteSummary());
  PrintTable();
  return OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("The main job of Heddle on one machine, over TLS, with real daemons.", "heddle-demo");
  DemoOptions options;
  app.add_option("-o,--out", options.out, "folder for the results")->required();
  app.add_option("--source", options.source, "the source tree, for the recipe and the base model")->required();
  app.add_option("--recipe", options.recipe, "another recipe; its devices must be parts of the Bible");
  app.add_option("--set", options.settings, "key=value, over the recipe (repeatable)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (options.recipe.empty()) options.recipe = options.source / "recipes" / "fedavg-lora.toml";
  std::error_code error;
  options.out = fs::absolute(options.out, error);
  options.recipe = fs::absolute(options.recipe, error);
  ::signal(SIGINT, [](int) { interrupted = true; });
  ::signal(SIGTERM, [](int) { interrupted = true; });
  LogOptions log;
  log.level = "warning";
  Status status = InitLogging(log);
  model::UseTensorMemory(model::kServerSpare);
  model::WarnOfSlowBlas();
  if (status.ok()) status = Demo(options).Run();
  if (status.ok()) return 0;
  std::cerr << "heddle-demo: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::simulator

int main(int argc, char** argv) {
  try {
    return heddle::simulator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-demo: " << error.what() << "\n";
    return 1;
  }
}
