// Models of real sizes: figures of heddle_bench_models.
#include <algorithm>
#include <boost/json.hpp>
#include <thread>

#include "bench.h"
#include "programs.h"

namespace heddle::bench {
namespace {

namespace json = boost::json;

// All rows that `command` of the program prints; those that it skips with its reason.
Result<Findings> RunModels(const Context& context, const std::vector<RowSpec>& rows, const std::string& command) {
  const std::filesystem::path program = context.bin / "heddle_bench_models";
  Findings found;
  if (!std::filesystem::exists(program)) {
    for (const RowSpec& row : rows) found.skipped[row.id] = "this build has no LibTorch";
    return found;
  }
  const unsigned threads = std::max(1U, std::thread::hardware_concurrency());
  HEDDLE_ASSIGN_OR_RETURN(const json::value printed,
                          RunForJson({program.string(), command, "--work", (context.work / "models").string(),
                                      "--threads", std::to_string(threads)},
                                     context.work / "models.log"));
  for (const json::value& row : printed.as_array()) {
    const json::object& object = row.as_object();
    const std::string id(object.at("id").as_string());
    const std::string note(object.at("note").as_string());
    if (object.contains("skipped")) {
      found.skipped[id] = note;
    } else {
      found.values[id] = {object.at("value").to_number<double>(), note};
    }
  }
  return found;
}

Measurement ByProgram(std::vector<RowSpec> rows, const std::string& command) {
  return {"models", rows, [rows, command](const Context& context) { return RunModels(context, rows, command); }};
}

}  // namespace

std::vector<Measurement> ModelMeasurements() {
  return {
      ByProgram({{"forward-products", "forward pass: rate kept of LibTorch's own mm", "ratio", 0.8, true},
                 {"forward-python", "forward pass, to the same model in Python", "ratio", 1.0, false},
                 {"step-products", "training step: rate kept of LibTorch's own mm", "ratio", 0.8, true},
                 {"step-python", "training step, to the same model in Python", "ratio", 1.0, false}},
                "speed"),
      ByProgram({{"load-same", "loading 500 MB of float32 in place, each page touched, to read()", "ratio", 1.2, false},
                 {"load-memory-same", "the same, peak memory to the weights' size", "ratio", 1.1, false},
                 {"load-bfloat16", "loading 500 MB of bfloat16 in place, to read()", "ratio", 1.2, false},
                 {"load-memory-bfloat16", "the same, peak memory to the weights' size", "ratio", 1.1, false},
                 {"load-narrowed", "loading 500 MB of float32 as bfloat16, to read()", "ratio", 1.2, false},
                 {"load-memory-narrowed", "the same, peak memory to the weights' size", "ratio", 1.1, false},
                 {"load-float32", "loading 500 MB of bfloat16 as float32 (1 GB), to read()", "ratio", 1.2, false},
                 {"load-float32-floor", "filling 1 GB of fresh memory alone, to read()", "ratio", std::nullopt, false},
                 {"load-memory-float32", "the same, peak memory to the weights' size", "ratio", 1.1, false},
                 {"load-int8", "loading it as int8, to read()", "ratio", 1.2, false},
                 {"load-memory-int8", "the same, peak memory to the weights' size", "ratio", 1.1, false},
                 {"load-nf4", "loading it as NF4, to read()", "ratio", 1.2, false},
                 {"load-memory-nf4", "the same, peak memory to the weights' size", "ratio", 1.1, false}},
                "load"),
      ByProgram({{"lora-memory", "LoRA on a bfloat16 base beyond it, to full tuning", "ratio", 0.35, false}}, "memory"),
  };
}

}  // namespace heddle::bench
