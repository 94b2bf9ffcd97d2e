#include "coordinator/recipe/recipe.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>

#include "aggregation/aggregator.h"
#include "aggregation/averaging/few_shot.h"
#include "aggregation/compression/compressor.h"
#include "aggregation/growing/trials.h"
#include "aggregation/layer_choice.h"
#include "aggregation/layer_groups.h"
#include "aggregation/parts/sub_models.h"
#include "common/assert.h"
#include "common/config.h"
#include "common/dotted_name.h"
#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/engine/engine.h"
#include "coordinator/recipe/base_folder.h"
#include "coordinator/recipe/bindings.h"
#include "coordinator/recipe/layer_memory.h"
#include "coordinator/recipe/recipe_checks.h"
#include "model/config/registry.h"
#include "model/tokenizer/tokenizer.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/adapter/prompt_projection.h"
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
  check(spec.later_min_reports <= spec.later_cohort_size,
        "strategy.min_reports: it must be at most strategy.later_cohort_size (" +
            std::to_string(spec.later_cohort_size) + ")");
  const uint64_t batches = std::max(1U, recipe.train.gradient_accumulation_steps());
  const uint64_t steps = std::max(recipe.train.local_steps(), recipe.later_local_steps);
  uint64_t most = steps * recipe.train.batch_size() * batches;
  check(recipe.aggregator.max_num_examples >= most,
        "strategy.max_num_examples: devices will report " + std::to_string(most) +
            " (local_steps x batch_size x gradient_accumulation_steps), which is more");
  for (const std::string& mistake : simulation_mistakes) check(false, mistake);
  if (Status lora = recipe.lora.Validate(); !lora.ok()) check(false, "lora: " + lora.message());
  if (Status plan = protocol::Validate(recipe.train); !plan.ok()) check(false, plan.message());
  if (mistakes.empty()) {
    // What is left of what the engine asks, so that a recipe that is read can be run.
    RunSpec whole = spec;
    whole.id = RunId(recipe.name);
    whole.local_task = "any";
    if (Status taken = CheckRunSpec(whole); !taken.ok()) check(false, "strategy: " + taken.message());
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

// The strategy must exist and like its settings: asked with a parent of one small layer.
Status CheckStrategy(const Recipe& recipe) {
  const std::array<float, 4> zeros{};
  const Tensor square = Tensor::FromFloats({2, 2}, zeros);
  const std::string network = "base_model.model.layers.0.adapter_mlp.";
  const bool bottleneck = recipe.lora.kind() == peft::TuningKind::kBottleneck;
  const bool prefix = recipe.lora.kind() == peft::TuningKind::kPrefixTuning;
  const StateDict factors = prefix       ? StateDict{{std::string(aggregation::kPrefixKey), square}}
                            : bottleneck ? StateDict{{network + "down.weight", square}, {network + "up.weight", square}}
                                         : StateDict{{peft::LoraAKey("x"), square}, {peft::LoraBKey("x"), square}};
  aggregation::AggregatorOptions options = aggregation::WithLayers(recipe.strategy, recipe.AggregatorOf(1), 1);
  const auto first = aggregation::FirstModel(recipe.strategy, factors, options);
  if (!first.ok()) return first.status().Annotate("strategy");
  const StateDict& parent = *first;
  options.kept.clear();  // of the adapter's own tensors, which CheckStrategyTakes sees
  options.fresh_adapter = [&](uint32_t) -> Result<StateDict> { return parent; };
  for (const uint32_t round : {1U, recipe.spec.first_stage_rounds + 1}) {
    options.cohort = options.max_updates = SizesOf(recipe.spec, round).cohort_size;
    const auto aggregator = aggregation::MakeAggregator(recipe.strategy, parent, options);
    if (!aggregator.ok()) return aggregator.status().Annotate("strategy");
  }
  const auto rules = aggregation::RulesOf(recipe.strategy, options);
  if (!rules.ok()) return rules.status().Annotate("strategy");
  if (!rules->mixed_ranks && !recipe.ranks.empty()) {
    return InvalidArgument("lora: " + recipe.strategy +
                           " merges adapters of one rank; remove device_ranks and rank_tiers, or choose a strategy for "
                           "devices of different ranks");
  }
  return OkStatus();
}

// That the strategy merges adapters of this kind: asked with the first one. Of plain factors it has been asked already.
Status CheckStrategyTakes(const Recipe& recipe, const peft::AdapterConfig& adapter, const StateDict& initial) {
  const bool plain = adapter.kind() == peft::TuningKind::kLora && !adapter.use_dora && adapter.modules_to_save.empty();
  const std::vector<std::string>& kept = recipe.aggregator.kept;
  if (plain && kept.empty()) return OkStatus();
  for (const std::string& pattern : kept) {
    const auto fits = [&](const auto& item) {
      return HasComponents(item.first, pattern) && !item.first.starts_with(aggregation::kOwnPrefix);
    };
    if (std::any_of(initial.begin(), initial.end(), fits)) continue;
    return InvalidArgument("strategy.kept: no tensor of the adapter has '" + pattern +
                           "' between the dots of its name; write whole words, such as those of '" +
                           initial.begin()->first + "'");
  }
  aggregation::AggregatorOptions options = recipe.AggregatorOf(1);
  options.fresh_adapter = [&](uint32_t) -> Result<StateDict> { return initial; };
  const auto aggregator = aggregation::MakeAggregator(recipe.strategy, initial, options);
  return aggregator.ok() ? OkStatus() : aggregator.status().Annotate("strategy");
}

// The first adapter with what the strategy adds for devices.
Result<StateDict> FirstModelOf(const Recipe& recipe, int64_t layers, const StateDict& adapter) {
  const auto options = aggregation::WithLayers(recipe.strategy, recipe.AggregatorOf(1), layers);
  auto first = aggregation::FirstModel(recipe.strategy, adapter, options);
  return first.ok() ? std::move(first) : first.status().Annotate("strategy");
}

// [lora] device_ranks and rank_tiers, [strategy] device_layers and layer_tiers.
Status ReadTiers(const RecipeBindings& given, Recipe* recipe) {
  std::string mistakes = ReadDeviceTiers(given.device_ranks(), given.rank_tiers(), "lora.device_ranks",
                                         "lora.rank_tiers", "rank", recipe->lora.r, "lora.r", &recipe->ranks);
  if (!recipe->lora.rank_pattern.empty() && !recipe->ranks.empty()) {
    mistakes +=
        "\n  lora.rank_pattern: it goes without device_ranks and rank_tiers, which say one rank for all modules";
  }
  const int64_t layers = aggregation::LayersToldTo(recipe->strategy, recipe->aggregator);
  mistakes +=
      ReadDeviceTiers(given.device_layers(), given.layer_tiers(), "strategy.device_layers", "strategy.layer_tiers",
                      "number of layers", layers > 0 ? layers : protocol::kMaxLayers, "num_layers", &recipe->depths);
  if (!recipe->depths.empty() && recipe->strategy != "HeteroLayers") {
    mistakes += "\n  strategy.device_layers: " + recipe->strategy +
                " gives all devices the same layers; remove it and layer_tiers, or choose HeteroLayers";
  }
  if (recipe->layers_by_memory && (recipe->strategy != "HeteroLayers" || !recipe->depths.empty())) {
    mistakes += "\n  strategy.layers_by_memory: it goes with HeteroLayers, without device_layers and layer_tiers";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

// Methods whose devices compute with a part of the model go with the local tasks that know it.
Status CheckParts(Recipe* recipe) {
  if (!aggregation::UsesSubModels(recipe->strategy)) return OkStatus();
  const std::string needed = recipe->strategy == "FreezeLayers" ? "sft" : "part_sft";
  if (recipe->local_task.empty()) recipe->local_task = needed;
  const peft::TuningKind kind = recipe->lora.kind();
  if (kind == peft::TuningKind::kIa3 || peft::IsPromptLearning(kind)) {
    return InvalidArgument(
        "tuning.peft_type: " + recipe->strategy +
        " trains layers apart, and this kind is of all at once; take LORA, BOTTLENECK, BITFIT or FULL");
  }
  if (recipe->local_task == needed) return OkStatus();
  return InvalidArgument("train.local_task: " + recipe->strategy + " needs '" + needed + "'; remove it");
}

// Stages that go with the strategy, and with its local task.
Status CheckUpload(const Recipe& recipe) {
  if (recipe.upload.empty() && recipe.later_upload.empty()) return OkStatus();
  std::string mistakes;
  if (recipe.RulesOf(1).groups > 0) {
    mistakes += "\n  compression.upload: " + recipe.strategy +
                "'s devices train adapters of different sizes, whose updates cannot be made smaller; remove it";
  }
  if (aggregation::LayerGroupsOf(recipe.strategy, recipe.AggregatorOf(1)) > 0) {
    mistakes += "\n  compression.upload: with " + recipe.strategy +
                " each device sends some layers only, which are not "
                "made smaller; remove it";
  }
  if (recipe.local_task == "lora_sft") {
    mistakes += "\n  compression.upload: the local task 'lora_sft' does not know it; remove train.local_task";
  }
  return mistakes.empty() ? OkStatus() : InvalidArgument("the recipe contradicts itself:" + mistakes);
}

// That a task without gradients is not asked for what a strategy adds to them.
Status CheckZerothOrder(const Recipe& recipe) {
  const bool splits = aggregation::LayerGroupsOf(recipe.strategy, recipe.AggregatorOf(1)) > 0;
  if (recipe.local_task == "bbpt") {
    if (recipe.lora.kind() != peft::TuningKind::kPromptTuning || !recipe.lora.modules_to_save.empty()) {
      return InvalidArgument("tuning.method: bbpt searches a prompt; set \"prompt-tuning\", without modules_to_save");
    }
    if (!(recipe.RulesOf(1) == aggregation::DeviceRules{})) {
      return InvalidArgument("strategy: " + recipe.strategy +
                             " has rules for devices, which bbpt does not take; choose FedBPT or FedAvg");
    }
    if (!recipe.download.empty()) {
      return InvalidArgument(
          "compression.download: coordinator and devices make the prompt of the same numbers, which are few; remove "
          "it");
    }
    if (recipe.train.zo().intrinsic_dim() > static_cast<uint32_t>(peft::kMostPromptCoordinates)) {
      return InvalidArgument("zo.intrinsic_dim: it must be at most " + std::to_string(peft::kMostPromptCoordinates));
    }
    return OkStatus();
  }
  if (recipe.local_task != "zo_sft") {
    return splits ? InvalidArgument("strategy: " + recipe.strategy + " goes with train.local_task = \"zo_sft\"")
                  : OkStatus();
  }
  const aggregation::DeviceRules rules = recipe.RulesOf(1);
  if (rules.correction == aggregation::Correction::kNone && rules.proximal_mu == 0 && rules.prune_gamma == 0) {
    return OkStatus();
  }
  return InvalidArgument(
      "strategy: " + recipe.strategy +
      " adds terms to the devices' gradients, which zo_sft does not compute; choose another strategy "
      "or set what it adds to 0");
}

// What workers of before do is asked for by its old name, so that they take it.
std::string DefaultTask(const Recipe& recipe) {
  if (aggregation::ChoosesLayers(recipe.strategy)) return "prefix_sft";
  if (aggregation::LabellingOf(recipe.strategy, recipe.aggregator).on || recipe.train.has_prompt()) return "few_shot";
  bool plain = recipe.upload.empty() && recipe.later_upload.empty() && !recipe.update_privacy.on();
  for (uint32_t round = 1; round <= std::min(2U, recipe.spec.rounds); ++round) {
    plain =
        plain && recipe.RulesOf(round) == aggregation::DeviceRules{.mixed_ranks = recipe.RulesOf(round).mixed_ranks};
  }
  return plain ? "lora_sft" : "sft";
}

std::string Hex8(uint64_t value) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(8, '0');
  for (size_t i = 0; i < 8; ++i) out[7 - i] = kDigits[value >> (4 * i) & 15];
  return out;
}

// That the model takes the recipe's sequences, and its tokenizer's ids.
Status CheckTexts(const Recipe& recipe, const model::ModelSpec& config) {
  const int64_t added = peft::IsPromptLearning(recipe.lora.kind()) ? recipe.lora.num_virtual_tokens : 0;
  if (static_cast<int64_t>(recipe.train.sequence_length()) + added > config.MaxLength()) {
    return InvalidArgument("train.sequence_length is " + std::to_string(recipe.train.sequence_length()) +
                           (added > 0 ? " beside " + std::to_string(added) + " virtual tokens" : std::string()) +
                           "; the base model takes at most " + std::to_string(config.MaxLength()) + " tokens");
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::Tokenizer> tokenizer, model::Tokenizer::Read(recipe.base_model));
  if (tokenizer->vocab_size() > config.vocab_size) {
    return InvalidArgument(recipe.base_model.string() + ": the tokenizer does not fit the model: it makes ids up to " +
                           std::to_string(tokenizer->vocab_size() - 1) + ", the model has embeddings for ids below " +
                           std::to_string(config.vocab_size) + "; copy the tokenizer of these weights");
  }
  return OkStatus();
}

// In place of a prompt, what stands for it where the recipe asks for that: what black-box tuning searches, its
// coordinates, from zero and a sigma of 1; or the weights of a generator.
Result<StateDict> InPlaceOfPrompt(const Recipe& recipe, StateDict initial) {
  constexpr double kPromptDeviation = 0.02;  // of a prompt's own elements (peft/adapter/initial.h)
  const auto dim = static_cast<int64_t>(recipe.generator.dim);
  if (recipe.local_task != "bbpt" && dim == 0) return initial;
  if (initial.size() != 1 || initial.begin()->second.shape().size() != 2) {
    return InvalidArgument(
        dim == 0 ? "tuning: bbpt searches a prompt and nothing beside it; a new head cannot be searched"
                 : "tuning.generator_dim: a generator is trained with nothing beside it; a new head is not");
  }
  const Shape& shape = initial.begin()->second.shape();
  if (dim > 0) {
    const peft::PromptGenerator generator{shape[0], shape[1], dim, dim, recipe.generator.scale};
    return generator.InitialModel(DeriveSeed(recipe.seed, "prompt generator", ""));
  }
  const peft::PromptProjection projection{shape[0], shape[1], recipe.train.zo().intrinsic_dim(),
                                          kPromptDeviation * recipe.train.zo().projection_scale()};
  return projection.InitialModel(/*sigma=*/1);
}

// The longest update that a device may send.
Result<uint64_t> MaxUpdateBytes(const Recipe& recipe, const RunMaterial& material) {
  // It has the adapter's tensors, perhaps a control variate for each.
  const aggregation::Correction correction = recipe.RulesOf(1).correction;
  if (UsesSharedSeeds(recipe.strategy)) {
    const uint64_t directions =
        uint64_t{recipe.train.local_steps()} * std::max(1U, recipe.train.zo().num_perturbations());
    return (size_t{4} << 10) + 12 * directions;  // a place of 64 bits at worst, and a scalar
  }
  uint64_t most = 0;
  for (const uint32_t round : {1U, recipe.upload_rounds + 1}) {
    const compression::Pipeline& upload = recipe.UploadOf(round);
    if (upload.empty()) {
      // And a header that may be written less tightly than ours.
      const bool controls = correction == aggregation::Correction::kScaffold;
      most = std::max(most, material.initial_adapter_bytes.size() * (controls ? 2 : 1) + (size_t{64} << 10));
      continue;
    }
    const StateDictSpec spec =
        aggregation::UpdateSpec(SpecOf(material.initial_adapter), {.correction = correction}, /*rank=*/0);
    const auto size = compression::Compressor(upload, 0).SizeOf(spec);
    if (!size.ok()) return size.status().Annotate("compression.upload");
    most = std::max(most, size->max);
  }
  return most;
}

}  // namespace

Result<Recipe> Recipe::Load(const fs::path& path, const std::map<std::string, std::string>& overrides) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error);
  const Result<std::string> text = ReadFile(path, size_t{1} << 20);
  if (!text.ok()) return Status(text.status().code(), text.status().message() + "; check the path of the recipe");
  return LoadText(*text, (error ? path : absolute).parent_path(), path.string(), overrides);
}

Result<Recipe> Recipe::LoadText(const std::string& text, const fs::path& folder, const std::string& name,
                                const std::map<std::string, std::string>& overrides, Origin origin) {
  Recipe recipe;
  RecipeBindings bindings(&recipe);
  bindings.schema().SetFolder(folder);
  HEDDLE_RETURN_IF_ERROR(bindings.schema().LoadText(text, name, overrides, /*use_environment=*/false));
  HEDDLE_RETURN_IF_ERROR(bindings.Store(origin).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckRelations(recipe, bindings.SimulationMistakes()).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(ReadTiers(bindings, &recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(TieLocalMomentum(&recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckStrategy(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckPruning(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckUpload(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckZerothOrder(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckParts(&recipe).Annotate(name));
  if (recipe.local_task.empty()) recipe.local_task = DefaultTask(recipe);
  HEDDLE_RETURN_IF_ERROR(CheckSeeds(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckFewShot(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckGenerator(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckKeptFront(recipe).Annotate(name));
  HEDDLE_RETURN_IF_ERROR(CheckPrivacy(recipe).Annotate(name));
  if (origin == Origin::kGiven) {
    HEDDLE_RETURN_IF_ERROR(CheckPopulation(recipe).Annotate(name));
    HEDDLE_RETURN_IF_ERROR(CheckCorrections(recipe).Annotate(name));
    HEDDLE_RETURN_IF_ERROR(CheckLabels(recipe).Annotate(name));
  }
  recipe.resolved_json = bindings.schema().ResolvedJson();
  return recipe;
}

double Recipe::LearningRateOf(uint32_t round) const {
  if (learning_rate_schedule != "cosine") return train.learning_rate();
  // Half a cosine from the full rate in round 1 towards zero after the last round.
  const double progress = static_cast<double>(round - 1) / std::max(1U, spec.rounds);
  return train.learning_rate() * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

int64_t Recipe::RankOf(const DeviceId& device) const {
  const int64_t rank = ranks.Of(device, seed, "rank");
  return rank == lora.r ? 0 : rank;
}

DeviceView Recipe::ViewFor(const DeviceId& device, uint32_t round, uint32_t layers) const {
  DeviceView view{.rank = RankOf(device), .group = {}, .layers = PartFor(device, round, layers).given};
  for (const compression::Stage& stage : download.stages()) {
    view.bfloat16 = stage.kind == compression::StageKind::kBf16;
    view.nnadq = stage.millionths;
  }
  const aggregation::DeviceRules rules = RulesOf(round);
  if (rules.groups > 0) view.group = aggregation::GroupOf(rules, seed, device.value());
  return view;
}

aggregation::AggregatorOptions Recipe::AggregatorOf(uint32_t round) const {
  aggregation::AggregatorOptions options = aggregator;
  options.seed = seed;
  options.round = round;
  options.scaling = lora.scaling();
  if (!lora.rank_pattern.empty() || !lora.alpha_pattern.empty()) {
    options.scaling_of = [config = lora](std::string_view path) { return config.ScalingOf(path); };
  }
  options.cohort = options.max_updates = SizesOf(spec, round).cohort_size;
  if (!depths.empty()) {
    options.layers_of = [depths = depths, seed = seed](std::string_view device) {
      return static_cast<uint32_t>(depths.Of(DeviceId(std::string(device)), seed, "layers"));
    };
  }
  const v1::ZerothOrder& zo = train.zo();
  options.zo.learning_rate = LearningRateOf(round);
  options.zo.peak_learning_rate = train.learning_rate();
  options.zo.local_steps = LocalStepsOf(round);
  options.zo.num_perturbations = std::max(1U, zo.num_perturbations());
  if (zo.zo_eps() > 0) options.zo.epsilon = zo.zo_eps();
  if (zo.clip_projected_grad() > 0) options.zo.max_scalar = zo.clip_projected_grad();
  options.zo.rademacher = zo.distribution() == "rademacher";
  return options;
}

aggregation::DeviceRules Recipe::RulesOf(uint32_t round) const {
  auto rules = aggregation::RulesOf(strategy, AggregatorOf(round));
  HEDDLE_ASSERT(rules.ok(), "a recipe's strategy was checked when it was read");
  return *std::move(rules);
}

std::optional<privacy::RunGuarantee> Recipe::Guarantee() const {
  if (!update_privacy.on() || update_privacy.noise_multiplier == 0) return std::nullopt;
  // One report a round: a round that is tried again gets the same bytes.
  return privacy::GuaranteeOf(update_privacy.noise_multiplier, spec.rounds, privacy_delta);
}

std::optional<std::string> Recipe::Warning() const {
  const auto set = [this](const char* name) {
    const auto given = aggregator.method.find(name);
    return given != aggregator.method.end() && given->second > 0;
  };
  if (strategy != "MultiKrum" && strategy != "Bulyan") return std::nullopt;
  if (set("num_attackers") || set("num_selected")) return std::nullopt;
  return strategy +
         " with strategy.num_attackers = 0 takes the mean of all updates, which protects against nothing; set it to "
         "how many devices of a round may send anything";
}

bool UsesSharedSeeds(const std::string& strategy) {
  const auto rules = aggregation::RulesOf(strategy, {});
  return rules.ok() && rules->seeds.on;
}

Result<RunMaterial> PrepareRun(const Recipe& recipe) {
  RunMaterial material;
  HEDDLE_ASSIGN_OR_RETURN(BaseModel base, ReadBaseModel(recipe));
  const model::ModelSpec& config = base.spec;
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile weights, ReadModelSafetensors(recipe.base_model));
  HEDDLE_RETURN_IF_ERROR(config.CheckTensors(SpecOf(weights.tensors)).Annotate(recipe.base_model.string()));
  const uint32_t told = aggregation::LayersToldTo(recipe.strategy, recipe.aggregator);
  if (told > 0 && told != config.num_hidden_layers) {
    return InvalidArgument("strategy.num_layers is " + std::to_string(told) + ", but the base model has " +
                           std::to_string(config.num_hidden_layers) + " layers");
  }
  if (config.head.task == model::Task::kNone) {
    return InvalidArgument(recipe.base_model.string() + ": " + config.architecture +
                           " has no head to train; model.num_labels makes one for classification");
  }
  HEDDLE_RETURN_IF_ERROR(CheckFewShotClasses(recipe, config));
  if (!config.TakesImages()) HEDDLE_RETURN_IF_ERROR(CheckTexts(recipe, config));

  HEDDLE_ASSIGN_OR_RETURN(std::vector<fs::path> files, BaseFiles(recipe.base_model));
  std::string identity = recipe.resolved_json;
  for (const fs::path& file : files) {
    if (!base.config_json.empty() && file.filename() == "config.json") {
      const Sha256Digest digest = Sha256(base.config_json);
      material.base_model.emplace_back(protocol::MakeBlobRef(digest, base.config_json.size(), "config.json"),
                                       fs::path());
      identity += digest.ToHex();
      continue;
    }
    HEDDLE_ASSIGN_OR_RETURN(Sha256Digest digest, Sha256File(file));
    std::error_code error;
    uint64_t size = fs::file_size(file, error);
    if (error) return ErrnoStatus(error.value(), "cannot stat " + file.string());
    material.base_model.emplace_back(protocol::MakeBlobRef(digest, size, file.filename().string()), file);
    identity += digest.ToHex();
  }

  if (recipe.local_task == "part_sft") HEDDLE_RETURN_IF_ERROR(AddTensorTrees(&material));

  const peft::AdapterConfig adapter = AdapterFor(recipe, config, SpecOf(weights.tensors));
  HEDDLE_RETURN_IF_ERROR(peft::CheckNames(config, adapter));
  HEDDLE_ASSIGN_OR_RETURN(
      material.initial_adapter,
      peft::MakeInitialAdapter(config, adapter, weights.tensors, DeriveSeed(recipe.seed, "initial_adapter", "")));
  HEDDLE_ASSIGN_OR_RETURN(material.initial_adapter, InPlaceOfPrompt(recipe, std::move(material.initial_adapter)));
  HEDDLE_ASSIGN_OR_RETURN(material.initial_adapter,
                          FirstModelOf(recipe, config.num_hidden_layers, material.initial_adapter));
  HEDDLE_RETURN_IF_ERROR(CheckStrategyTakes(recipe, adapter, material.initial_adapter));
  HEDDLE_RETURN_IF_ERROR(CheckNoiseFits(recipe, material.initial_adapter));
  material.initial_adapter_bytes = SerializeSafetensors(material.initial_adapter);
  material.adapter_config_json = adapter.ToJson();
  material.model_config_json = std::move(base.config_json);

  material.spec = recipe.spec;
  material.spec.seed = recipe.seed;
  material.spec.local_task = recipe.local_task;
  material.spec.max_num_examples = recipe.aggregator.max_num_examples;
  HEDDLE_ASSIGN_OR_RETURN(material.spec.layer_memory, LayerMemory(recipe, config, material.initial_adapter));
  HEDDLE_ASSIGN_OR_RETURN(material.spec.max_update_bytes, MaxUpdateBytes(recipe, material));
  material.spec.id = RunId(recipe.name + "-" + Hex8(DeriveSeed(recipe.seed, "run", identity)));
  return material;
}

}  // namespace heddle::coordinator
