// heddle-simulate: runs a recipe's simulated devices in this process. Exit status: 0 complete, 1 failed, 2 wrong usage.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "client/worker/local_task.h"
#include "common/build_info.h"
#include "common/config.h"
#include "common/logging.h"
#include "model/transformer/blas_check.h"
#include "simulator/report/report.h"
#include "simulator/world/simulation.h"

namespace heddle::simulator {
namespace {

std::atomic<bool> interrupted{false};

Status Evaluate(const SimulationOptions& options, const std::string& heldout, uint32_t rounds, double* base,
                double* final) {
  HEDDLE_ASSIGN_OR_RETURN(const auto recipe, coordinator::Recipe::Load(options.recipe, options.overrides));
  const auto resources = client::MakeTaskResources();
  const auto measure = [&](const std::filesystem::path& adapter, double* perplexity) -> Status {
    HEDDLE_ASSIGN_OR_RETURN(const auto evaluation, client::EvaluateModel(recipe.base_model, adapter, heldout,
                                                                         recipe.train.sequence_length(), *resources));
    *perplexity = evaluation.perplexity;
    return OkStatus();
  };
  HEDDLE_RETURN_IF_ERROR(measure({}, base));
  return measure(options.out / "checkpoints" / ("round-" + std::to_string(rounds)), final);
}

int Main(int argc, char** argv) {
  CLI::App app("Runs a recipe with simulated devices in this process, on a virtual clock.", "heddle-simulate");
  SimulationOptions options;
  std::vector<std::string> settings;
  std::string out = "heddle-simulation", format = "text", heldout;
  app.add_option("RECIPE", options.recipe, "recipe.toml")->required();
  app.add_option("-o,--out", out, "folder for run.json, history.jsonl, checkpoints/, report.html")
      ->capture_default_str();
  app.add_option("--set", settings, "key=value, over the recipe (repeatable)");
  app.add_option("--heldout", heldout, "text file: measures the final adapter's and the base model's perplexity on it");
  app.add_option("--format", format, "text or json")->check(CLI::IsMember({"text", "json"}));
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto overrides = ParseSettings(settings);
  if (!overrides.ok()) {
    std::cerr << "heddle-simulate: " << overrides.status().message() << "\n";
    return 2;
  }
  options.overrides = *std::move(overrides);
  options.out = out;
  LogOptions log;
  log.level = "warning";
  if (Status status = InitLogging(log); !status.ok()) {
    std::cerr << "heddle-simulate: " << status.message() << "\n";
    return 1;
  }
  if (const model::BlasCheck blas = model::CheckLoadedBlas(); blas.slow) Log(Severity::kWarning, blas.Describe());
  ::signal(SIGINT, [](int) { interrupted = true; });
  ::signal(SIGTERM, [](int) { interrupted = true; });
  const bool text = format == "text";
  options.progress = [text](const coordinator::RunProgress& p) {
    if (text && p.last_train_loss) {
      std::fprintf(stderr, "round %u/%u  attempt %u  updates %zu  loss %.4f\n", p.round, p.rounds, p.attempt,
                   p.accepted, *p.last_train_loss);
    }
    return !interrupted.load();
  };
  auto result = Simulate(options);
  if (!result.ok()) {
    std::cerr << "heddle-simulate: " << result.status().message() << "\n";
    return 1;
  }
  if (Status status = WriteReport(out); !status.ok()) {
    std::cerr << "heddle-simulate: " << status.message() << "\n";
    return 1;
  }
  double base = 0, final = 0;
  if (!heldout.empty()) {
    Status status = Evaluate(options, heldout, result->rounds, &base, &final);
    if (!status.ok()) {
      std::cerr << "heddle-simulate: " << status.message() << "\n";
      return 1;
    }
  }
  const std::string hash = result->run.model.ToHex();
  if (text) {
    std::printf("run               %s\nrounds            %u with %zu devices\nadapter_sha256    %s\n",
                result->run.id.value().c_str(), result->rounds, result->devices, hash.c_str());
    std::printf(
        "simulated time    %.1f s\nwall time         %.1f s\nbytes down, up    %llu, %llu\nreport            %s\n",
        result->virtual_seconds, result->wall_seconds, static_cast<unsigned long long>(result->traffic.down),
        static_cast<unsigned long long>(result->traffic.up), (options.out / "report.html").c_str());
    if (!heldout.empty()) std::printf("perplexity        %.3f, base %.3f\n", final, base);
  } else {
    std::string perplexities;
    if (!heldout.empty()) {
      perplexities = ",\"perplexity\":" + std::to_string(final) + ",\"base_perplexity\":" + std::to_string(base);
    }
    std::printf(
        "{\"run_id\":\"%s\",\"rounds\":%u,\"devices\":%zu,\"adapter_sha256\":\"%s\",\"virtual_seconds\":%.6f,"
        "\"wall_seconds\":%.3f,\"bytes_down\":%llu,\"bytes_up\":%llu%s}\n",
        result->run.id.value().c_str(), result->rounds, result->devices, hash.c_str(), result->virtual_seconds,
        result->wall_seconds, static_cast<unsigned long long>(result->traffic.down),
        static_cast<unsigned long long>(result->traffic.up), perplexities.c_str());
  }
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
