// Figures that other programs make: the measurements of aggregation and training, and the demo.
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>

#include "bench.h"
#include "common/file.h"
#include "common/subprocess.h"
#include "programs.h"

namespace heddle::bench {

namespace json = boost::json;

Result<json::value> RunForJson(const std::vector<std::string>& argv, const std::filesystem::path& log) {
  SubprocessOptions options;
  options.argv = argv;
  options.pipe_stdout = true;
  options.stderr_file = log;
  HEDDLE_ASSIGN_OR_RETURN(Subprocess program, Subprocess::Start(options));
  std::string out;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(program.stdout_fd(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  if (const int status = program.Wait(); status != 0) {
    const auto said = ReadFile(log);
    return Internal(argv[0] + " ended with status " + std::to_string(status) + ": " + (said.ok() ? *said : ""));
  }
  boost::system::error_code error;
  json::value value = json::parse(out, error);
  if (error || !value.is_array()) return Internal(argv[0] + " did not print a JSON array");
  return value;
}

Result<double> ValueOf(const json::value& rows, std::string_view id) {
  for (const json::value& row : rows.as_array()) {
    const json::object* object = row.if_object();
    if (object == nullptr || !object->contains("id") || object->at("id") != json::value(id)) continue;
    if (const json::value* value = object->if_contains("value"); value != nullptr && value->is_number()) {
      return value->to_number<double>();
    }
  }
  return Internal("the program did not print " + std::string(id));
}

namespace {

Result<Findings> Fold(const Context& context) {
  const int runs = 15;
  HEDDLE_ASSIGN_OR_RETURN(const json::value rows, RunForJson({(context.bin / "heddle_bench_aggregation").string(),
                                                              "--runs", std::to_string(runs), "--json"},
                                                             context.work / "aggregation.log"));
  Findings found;
  const std::string note = "median of " + std::to_string(runs) + ", in turns with memcpy";
  HEDDLE_ASSIGN_OR_RETURN(const double ratio, ValueOf(rows, "aggregation.fold_to_memcpy"));
  HEDDLE_ASSIGN_OR_RETURN(const double rate, ValueOf(rows, "aggregation.fold_rate"));
  found.values["fold-rate"] = {ratio, note};
  found.values["fold-speed"] = {rate, note};
  return found;
}

// 100 updates of 16 MiB, each rule in a process of its own.
Result<Findings> RobustRules(const Context& context) {
  struct Rule {
    const char *method, *id;
  };
  Findings found;
  for (const Rule& rule : {Rule{"CoordinateMedian", "median"}, Rule{"MultiKrum", "krum"}}) {
    HEDDLE_ASSIGN_OR_RETURN(const json::value rows,
                            RunForJson({(context.bin / "heddle_bench_robust").string(), "--method", rule.method,
                                        "--scratch", context.work.string()},
                                       context.work / "robust.log"));
    HEDDLE_ASSIGN_OR_RETURN(const double peak, ValueOf(rows, "peak_mb"));
    HEDDLE_ASSIGN_OR_RETURN(const double seconds, ValueOf(rows, "seconds"));
    found.values[std::string(rule.id) + "-memory"] = {peak, "peak resident of one process, one round"};
    found.values[std::string(rule.id) + "-seconds"] = {seconds, "one round, after the last update came"};
  }
  return found;
}

// A LoRA step to the same step by hand, as row `id`.
Result<Findings> LoraStep(const Context& context, const std::string& id, const std::vector<std::string>& how) {
  const std::filesystem::path program = context.bin / "heddle_bench_training";
  Findings found;
  if (!std::filesystem::exists(program)) {
    found.skipped[id] = "this build has no LibTorch";
    if (id == "lora-step") found.skipped["lora-step-kept"] = found.skipped[id];
    return found;
  }
  std::vector<std::string> command = {program.string(), "--json"};
  command.insert(command.end(), how.begin(), how.end());
  HEDDLE_ASSIGN_OR_RETURN(const json::value rows, RunForJson(command, context.work / "training.log"));
  HEDDLE_ASSIGN_OR_RETURN(const double ratio, ValueOf(rows, "training.step_to_bare"));
  found.values[id] = {ratio, "medians of steps in turns with a bare LibTorch loop"};
  if (id == "lora-step") {
    HEDDLE_ASSIGN_OR_RETURN(const double kept, ValueOf(rows, "training.step_kept_bytes"));
    found.values["lora-step-kept"] = {kept, "most that any step left with LibTorch's allocator"};
  }
  return found;
}

Result<Findings> TrainingStep(const Context& context) { return LoraStep(context, "train-step", {}); }

// Larger matrices: what the factors cost beside them is what is measured.
Result<Findings> LargerLoraStep(const Context& context) {
  return LoraStep(context, "lora-step", {"--shape", "15m", "--batch", "4", "--steps", "15"});
}

Result<Findings> Quality(const Context& context) {
  const std::vector<std::string> ids = {"quality-base", "quality-alone", "quality-central"};
  Findings found;
  const auto text = ReadFile(context.demo / "summary.json");
  if (!text.ok()) {
    for (const std::string& id : ids) found.skipped[id] = "run ./run demo first";
    return found;
  }
  boost::system::error_code error;
  const json::value summary = json::parse(*text, error);
  const auto number = [&](const char* key) -> Result<double> {
    const json::object* object = error ? nullptr : summary.if_object();
    const json::value* value = object == nullptr ? nullptr : object->if_contains(key);
    if (value == nullptr || !value->is_number())
      return DataLoss("the demo's summary.json has no number " + std::string(key));
    return value->to_number<double>();
  };
  HEDDLE_ASSIGN_OR_RETURN(const double base, number("base_perplexity"));
  HEDDLE_ASSIGN_OR_RETURN(const double alone, number("local_only_perplexity"));
  HEDDLE_ASSIGN_OR_RETURN(const double federated, number("federated_perplexity"));
  HEDDLE_ASSIGN_OR_RETURN(const double central, number("centralised_perplexity"));
  const std::string note = "from the last ./run demo";
  found.values[ids[0]] = {federated / base, note};
  found.values[ids[1]] = {federated / alone, note};
  found.values[ids[2]] = {federated / central, note};
  return found;
}

}  // namespace

std::vector<Measurement> ProgramMeasurements() {
  return {
      {"spine",
       {{"fold-rate", "folding an update, rate kept of memcpy", "ratio", 0.5, true},
        {"fold-speed", "the same, input bytes a second on one thread", "GB/s", std::nullopt, true}},
       Fold},
      {"peft",
       {{"median-memory", "coordinate median of 100 updates of 16 MiB, memory", "MB", 300, false},
        {"median-seconds", "the same, time", "s", std::nullopt, false},
        {"krum-memory", "Multi-Krum of 100 updates of 16 MiB, memory", "MB", 300, false},
        {"krum-seconds", "the same, time", "s", std::nullopt, false}},
       RobustRules},
      {"spine", {{"train-step", "training step, to one of a bare LibTorch loop", "ratio", 1.03, false}}, TrainingStep},
      {"peft",
       {{"lora-step", "LoRA step, to one with the same matrices by hand", "ratio", 1.05, false},
        {"lora-step-kept", "what a LoRA step keeps of the memory that it takes", "B", 0, false}},
       LargerLoraStep},
      {"spine",
       {{"quality-base", "federated perplexity, to the base model's", "ratio", 0.75, false},
        {"quality-alone", "federated perplexity, to the mean of devices alone", "ratio", 1.0, false},
        {"quality-central", "federated perplexity, to a centralised run's", "ratio", 1.05, false}},
       Quality},
  };
}

}  // namespace heddle::bench
