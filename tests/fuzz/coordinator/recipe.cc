// Any text as a recipe: refused with every mistake named, or a recipe whose run the engine takes, whose settings
// survive their row, and whose plan of every round a device takes.
#include "coordinator/recipe/recipe.h"

#include <boost/json/parse.hpp>

#include "coordinator/engine/engine.h"
#include "coordinator/store/run_spec_json.h"
#include "protocol/validate.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::coordinator;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;  // as fuzz_config: the TOML library is not ours to measure
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto recipe = Recipe::LoadText(text, "/nowhere", "recipe.toml");
  if (!recipe.ok()) {
    Require(recipe.status().code() == Code::kInvalidArgument, "a refusal is an invalid argument",
            recipe.status().ToString());
    Require(!recipe.status().message().empty(), "a refusal says why");
    return 0;
  }
  boost::system::error_code error;
  boost::json::parse(recipe->resolved_json, error);
  Require(!error, "the resolved recipe is JSON", recipe->resolved_json);

  RunSpec spec = recipe->spec;
  // As PrepareRun makes it.
  spec.id = RunId(recipe->name + "-01234567");
  spec.seed = recipe->seed;
  spec.local_task = recipe->local_task;
  spec.max_num_examples = recipe->aggregator.max_num_examples;
  Require(CheckRunSpec(spec).ok(), "the engine takes the run", CheckRunSpec(spec).message());
  Step first;
  const Time now = FromUnixMicros(1'700'000'000'000'000);
  Require(Engine::Create(spec, Sha256(std::string_view("model")), now, &first).ok(), "and begins it");
  const std::string written = RunSpecToJson(spec);
  const auto read = RunSpecFromJson(written);
  Require(read.ok() && RunSpecToJson(*read) == written, "its settings survive their row", written);

  for (const uint32_t round : {1U, (spec.rounds + 1) / 2, spec.rounds, spec.first_stage_rounds + 1}) {
    const v1::TrainPlan plan = recipe->TrainPlanOf(round);
    Require(protocol::Validate(plan).ok(), "a device takes the plan of every round",
            protocol::Validate(plan).message());
  }
  return 0;
}
