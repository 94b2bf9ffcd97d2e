#include "coordinator/recipe/recipe.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "aggregation/aggregator.h"
#include "common/config.h"
#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/bindings.h"
#include "model/config/registry.h"
#include "model/tokenizer/tokenizer.h"
#include "protocol/limits.h"
#include "protocol/validate.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

bool IsValidName(const std::string& name) {
  return !name.empty() && name.size() <= 40 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

// Relations between keys; single keys are checked by the schema.
Status CheckRelations(const Recipe& recipe, const std::vector<std::string>& simulation_mistakes) {
  std::string mistakes;
  auto check = [&](bool fine, const std::string& sentence) {
    if (!fine) mistakes += "\n  " + sentence;
  };
  const RunSpec& spec = recipe.spec;
  check(IsValidName(recipe.name), "name: it must be 1 to 40 of a-z, 0-9 and '-'");
  check(spec.min_reports <= spec.cohort_size,
        "strategy.min_reports: it must be at most strategy.cohort_size (" + std::to_string(spec.cohort_size) + ")");
  const uint64_t batches = std::max(1U, recipe.train.gradient_accumulation_steps());
  uint64_t most = uint64_t{recipe.train.local_steps()} * recipe.train.batch_size() * batches;
  check(recipe.aggregator.max_num_examples >= most,
        "strategy.max_num_examples: devices will report " + std::to_string(most) +
            " (local_steps x batch_size x gradient_accumulation_steps), which is more");
  for (const std::string& mistake : simulation_mistakes) check(false, mistake);
  if (Status lora = recipe.lora.Validate(); !lora.ok()) check(false, "lora: " + lora.message());
  if (Status plan = protocol::Validate(recipe.train); !plan.ok()) check(false, plan.message());
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

// The strategy must exist and like its settings: asked with a parent of one element.
Status CheckStrategy(const Recipe& recipe) {
  float zero = 0;
  StateDict parent;
  parent.emplace("x", Tensor::FromFloats({1}, {&zero, 1}));
  auto aggregator = aggregation::MakeAggregator(recipe.strategy, parent, recipe.aggregator);
  return aggregator.ok() ? OkStatus() : aggregator.status().Annotate("strategy");
}

std::string Hex8(uint64_t value) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(8, '0');
  for (size_t i = 0; i < 8; ++i) out[7 - i] = kDigits[value >> (4 * i) & 15];
  return out;
}

// The files that make up a base model's folder for a device.
Result<std::vector<fs::path>> BaseFiles(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  if (!fs::is_regular_file(folder / "config.json", error)) {
    return NotFound("the base model's folder " + folder.string() + " has no config.json");
  }
  files.push_back(folder / "config.json");
  // Whatever says how texts and images become numbers, so that a device reads them as this machine does.
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
                           "tokenizer.model", "spiece.model", "preprocessor_config.json"}) {
    if (fs::is_regular_file(folder / name, error)) files.push_back(folder / name);
  }
  if (fs::is_regular_file(folder / "model.safetensors", error)) {
    files.push_back(folder / "model.safetensors");
    return files;
  }
  files.push_back(folder / "model.safetensors.index.json");
  std::vector<fs::path> shards;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name.starts_with("model-") && name.ends_with(".safetensors")) shards.push_back(entry.path());
  }
  if (error) return ErrnoStatus(error.value(), "cannot read " + folder.string());
  std::sort(shards.begin(), shards.end());
  files.insert(files.end(), shards.begin(), shards.end());
  return files;
}

// That the model takes the recipe's sequences, and its tokenizer's ids.
Status CheckTexts(const Recipe& recipe, const model::ModelSpec& config) {
  if (static_cast<int64_t>(recipe.train.sequence_length()) > config.MaxLength()) {
    return InvalidArgument("train.sequence_length is " + std::to_string(recipe.train.sequence_length()) +
                           "; the base model takes at most " + std::to_string(config.MaxLength()) + " tokens");
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::Tokenizer> tokenizer, model::Tokenizer::Read(recipe.base_model));
  if (tokenizer->vocab_size() > config.vocab_size) {
    return InvalidArgument(recipe.base_model.string() + ": the tokenizer does not fit the model: it makes ids up to " +
                           std::to_string(tokenizer->vocab_size() - 1) + ", the model has embeddings for ids below " +
                           std::to_string(config.vocab_size));
  }
  return OkStatus();
}

}  // namespace

Result<Recipe> Recipe::Load(const fs::path& path, const std::map<std::string, std::string>& overrides) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error);
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, size_t{1} << 20));
  return LoadText(text, (error ? path : absolute).parent_path(), path.string(), overrides);
}

Result<Recipe> Recipe::LoadText(const std::string& text, const fs::path& folder, const std::string& name,
                                const std::map<std::string, std::string>& overrides) {
  Recipe recipe;
  RecipeBindings bindings(&recipe);
  bindings.schema().SetFolder(folder);
  HEDDLE_RETURN_IF_ERROR(bindings.schema().LoadText(text, name, overrides, /*use_environment=*/false));
  HEDDLE_RETURN_IF_ERROR(bindings.Store());
  HEDDLE_RETURN_IF_ERROR(CheckRelations(recipe, bindings.SimulationMistakes()).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckStrategy(recipe).Annotate(name));
  recipe.resolved_json = bindings.schema().ResolvedJson();
  return recipe;
}

v1::TrainPlan Recipe::TrainPlanOf(uint32_t round) const {
  v1::TrainPlan plan = train;
  if (learning_rate_schedule == "cosine") {
    // Half a cosine from the full rate in round 1 towards zero after the last round.
    double progress = static_cast<double>(round - 1) / std::max(1U, spec.rounds);
    plan.set_learning_rate(train.learning_rate() * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
  }
  return plan;
}

Result<RunMaterial> PrepareRun(const Recipe& recipe) {
  RunMaterial material;
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec config, model::ReadModelConfig(recipe.base_model));
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile weights, ReadModelSafetensors(recipe.base_model));
  HEDDLE_RETURN_IF_ERROR(config.CheckTensors(SpecOf(weights.tensors)).Annotate(recipe.base_model.string()));
  if (config.head.task == model::Task::kNone) {
    return InvalidArgument(recipe.base_model.string() + ": " + config.architecture + " has no head to train");
  }
  if (!config.TakesImages()) HEDDLE_RETURN_IF_ERROR(CheckTexts(recipe, config));

  HEDDLE_ASSIGN_OR_RETURN(std::vector<fs::path> files, BaseFiles(recipe.base_model));
  std::string identity = recipe.resolved_json;
  for (const fs::path& file : files) {
    HEDDLE_ASSIGN_OR_RETURN(Sha256Digest digest, Sha256File(file));
    std::error_code error;
    uint64_t size = fs::file_size(file, error);
    if (error) return ErrnoStatus(error.value(), "cannot stat " + file.string());
    material.base_model.emplace_back(protocol::MakeBlobRef(digest, size, file.filename().string()), file);
    identity += digest.ToHex();
  }

  HEDDLE_ASSIGN_OR_RETURN(std::vector<peft::TargetModule> targets, peft::FindTargets(config, recipe.lora));
  material.initial_adapter =
      peft::MakeInitialAdapter(targets, recipe.lora, DeriveSeed(recipe.seed, "initial_adapter", ""));
  material.initial_adapter_bytes = SerializeSafetensors(material.initial_adapter);
  material.adapter_config_json = recipe.lora.ToJson();

  material.spec = recipe.spec;
  material.spec.seed = recipe.seed;
  material.spec.local_task = recipe.local_task;
  material.spec.max_num_examples = recipe.aggregator.max_num_examples;
  // An update has the adapter's tensors and a header that may be written less tightly than ours.
  material.spec.max_update_bytes = material.initial_adapter_bytes.size() + (size_t{64} << 10);
  material.spec.id = RunId(recipe.name + "-" + Hex8(DeriveSeed(recipe.seed, "run", identity)));
  return material;
}

v1::TaskPlan MakeTaskPlan(const Recipe& recipe, const RunMaterial& material, uint32_t round,
                          const Sha256Digest& adapter, uint64_t adapter_bytes, const DeviceId& device) {
  v1::TaskPlan plan;
  plan.set_local_task(recipe.local_task);
  for (const auto& [ref, path] : material.base_model) *plan.add_base_model() = ref;
  *plan.add_adapter() = protocol::MakeBlobRef(Sha256(material.adapter_config_json), material.adapter_config_json.size(),
                                              "adapter_config.json");
  *plan.add_adapter() = protocol::MakeBlobRef(adapter, adapter_bytes, "adapter_model.safetensors");
  *plan.mutable_train() = recipe.TrainPlanOf(round);
  plan.set_seed(DeriveSeed(recipe.seed, "train", "round=" + std::to_string(round) + " device=" + device.value()));
  plan.set_max_update_bytes(material.spec.max_update_bytes);
  plan.set_max_num_examples(material.spec.max_num_examples);
  return plan;
}

}  // namespace heddle::coordinator
