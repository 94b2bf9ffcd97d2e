// Estimates of memory against what LibTorch really asks its allocator for.
#include <c10/core/Allocator.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <functional>

#include "model/config/memory_estimate.h"
#include "model/config/registry.h"
#include "model/weights/base_weights.h"
#include "peft/adapter/adapter.h"
#include "peft/lora/lora.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"
#include "zo_optim/estimator/estimator.h"
#include "zo_optim/estimator/forward_gradient.h"

namespace heddle::client {
namespace {

// Bytes that are allocated on this thread while it is in use, and the most at a time. The numbers are exact: no memory
// of the process, which the allocator keeps, is looked at.
class AllocationMeter : public c10::MemoryReportingInfoBase {
 public:
  // One of the two overrides: the type of the totals is another in later versions of LibTorch.
  void reportMemoryUsage(void*, int64_t size, int64_t, int64_t, c10::Device) { Count(size); }
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) { Count(size); }
  bool memoryProfilingEnabled() const { return true; }
  double peak() const { return static_cast<double>(peak_); }

 private:
  void Count(int64_t size) {
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  int64_t now_ = 0, peak_ = 0;
};

template <typename Function>
double PeakOf(const Function& function) {
  auto meter = std::make_shared<AllocationMeter>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
    function();
  }
  return meter->peak();
}

// Large enough that the widths outweigh what is not counted.
model::ModelSpec Config() {
  model::ModelSpec spec = model::TinyConfig();
  spec.hidden_size = 128;
  spec.intermediate_size = 344;
  spec.num_hidden_layers = 6;
  spec.num_attention_heads = 8;
  spec.num_key_value_heads = 4;
  spec.head_dim = 16;
  spec.vocab_size = 2048;
  spec.max_position_embeddings = 256;
  return spec;
}

std::string BertJson(const std::string& architecture) {
  return R"({"architectures": [")" + architecture +
         R"("], "hidden_act": "gelu", "hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 128,
    "num_attention_heads": 8, "num_hidden_layers": 6, "num_labels": 4, "type_vocab_size": 2, "vocab_size": 8192})";
}

// Queries, keys and values in one product.
constexpr char kGpt2[] = R"({"architectures": ["GPT2LMHeadModel"], "n_embd": 128, "n_layer": 6, "n_head": 8,
    "n_positions": 256, "vocab_size": 2048})";
constexpr char kOpt[] = R"({"architectures": ["OPTForCausalLM"], "hidden_size": 128, "num_hidden_layers": 6,
    "num_attention_heads": 8, "ffn_dim": 512, "vocab_size": 2048, "max_position_embeddings": 256,
    "word_embed_proj_dim": 64, "do_layer_norm_before": true})";
// Attention and MLP side by side.
constexpr char kNeoX[] = R"({"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 128, "num_hidden_layers": 6,
    "num_attention_heads": 8, "intermediate_size": 512, "vocab_size": 2048, "max_position_embeddings": 256,
    "use_parallel_residual": true})";
constexpr char kVit[] = R"({"architectures": ["ViTForImageClassification"], "hidden_size": 128, "num_hidden_layers": 6,
    "num_attention_heads": 8, "intermediate_size": 512, "image_size": 44, "patch_size": 4, "num_channels": 3,
    "num_labels": 4})";

struct MemoryCase {
  std::string name, config_json;
  std::vector<std::string> targets = {"q_proj", "v_proj"};
  model::WeightType base = model::WeightType::kFloat32;
  bool bf16 = false;
};

std::vector<MemoryCase> MemoryCases() {
  const std::string llama = model::LlamaConfigJson(Config());
  model::ModelSpec wide = Config();
  wide.vocab_size = 32768;  // whose loss works through 256 of 512 rows at a time
  wide.num_hidden_layers = 2;
  const std::vector<std::string> of_bert = {"query", "value"};
  return {{"Llama", llama},
          {"LlamaInBfloat16", llama, {"q_proj", "v_proj"}, model::WeightType::kBfloat16, true},
          {"WideVocabulary", model::LlamaConfigJson(wide)},
          {"OutputLayerTrained",
           model::LlamaConfigJson([] {
             model::ModelSpec spec = Config();
             spec.tie_word_embeddings = false;
             spec.vocab_size = 8192;
             return spec;
           }()),
           {"q_proj", "lm_head"}},
          {"BertClasses", BertJson("BertForSequenceClassification"), of_bert},
          {"BertMasked", BertJson("BertForMaskedLM"), of_bert},
          {"Gpt2", kGpt2, {"c_attn"}},
          {"OptWithNarrowEmbeddings", kOpt},
          {"GptNeoXInParallel", kNeoX, {"query_key_value"}},
          {"Vit", kVit, of_bert}};
}

constexpr int64_t kBatch = 4, kLength = 128;
// How far an estimate may be off.
constexpr double kLeast = 0.75, kMost = 1.33;

class MemoryTest : public testing::TestWithParam<MemoryCase> {
 protected:
  MemoryTest() {
    at::set_num_threads(1);
    torch::manual_seed(1);
    const model::ModelSpec spec = *model::ParseModelConfig(GetParam().config_json);
    folder_.Write("config.json", GetParam().config_json);
    model::Require(WriteSafetensors(folder_ / "model.safetensors", model::RandomWeights(spec, 1)));
    settings_.batch = kBatch;
    settings_.length = kLength;
    settings_.base = GetParam().base;
    settings_.bf16 = GetParam().bf16;
    compute_.type = settings_.bf16 ? at::kBFloat16 : at::kFloat;
    base_ = *model::BaseWeights::Load(folder_.path(), {settings_.base, torch::kCPU});
    adapter_.r = 8;
    adapter_.target_modules = GetParam().targets;
    if (spec.TakesImages()) {
      input_.pixels = at::rand({kBatch, 3, 44, 44});
    } else {
      input_.ids = at::randint(spec.vocab_size, {kBatch, kLength}, at::kLong);
    }
    switch (spec.head.task) {
      case model::Task::kCausalLm:
        targets_ = input_.ids;
        break;
      case model::Task::kMaskedLm: {
        const auto masked = at::rand({kBatch, kLength}) < 0.15;
        targets_ = at::where(masked, input_.ids, at::full_like(input_.ids, -100));
        break;
      }
      default:
        targets_ = at::randint(spec.num_labels, {kBatch}, at::kLong);
    }
  }

  double Estimated(model::MemoryUse use) {
    settings_.targets.clear();
    const auto found = *peft::FindTargets(base_->spec.LinearModules(), adapter_);
    for (const model::LinearSpec& linear : base_->spec.LinearModules()) {
      for (const peft::TargetModule& target : found) {
        if (linear.path == target.path) settings_.targets.push_back(linear);
      }
    }
    return EstimateMemory(base_->spec, use, settings_).activations;
  }

  // The peak of a training step on factors, which are there before.
  double Measured() {
    model::Transformer network(base_, compute_);
    const auto targets = *peft::FindTargets(base_->spec.LinearModules(), adapter_);
    EXPECT_TRUE(peft::InjectLora(network, adapter_, peft::MakeInitialAdapter(targets, adapter_, 1)).ok());
    network->train();
    return PeakOf([&] { network->Loss(input_, targets_).backward(); });
  }

  const TempDir folder_;
  std::shared_ptr<const model::BaseWeights> base_;
  model::MemorySettings settings_;
  model::ComputeOptions compute_;
  peft::AdapterConfig adapter_;
  model::ModelInput input_;
  torch::Tensor targets_;
};

void ExpectNear(double estimated, double measured) {
  EXPECT_GT(estimated, kLeast * measured) << estimated / 1e6 << " MB, measured " << measured / 1e6;
  EXPECT_LT(estimated, kMost * measured) << estimated / 1e6 << " MB, measured " << measured / 1e6;
}

TEST_P(MemoryTest, OfLoraTrainingIsAsEstimated) { ExpectNear(Estimated(model::MemoryUse::kLora), Measured()); }

TEST_P(MemoryTest, OfLoraOnAllLayersIsAsEstimated) {
  adapter_.target_modules.clear();
  adapter_.target_modules_regex = "all-linear";
  ExpectNear(Estimated(model::MemoryUse::kLora), Measured());
}

TEST_P(MemoryTest, OfCheckpointedTrainingIsAsEstimated) {
  settings_.checkpoint = compute_.checkpoint_layers = true;
  ExpectNear(Estimated(model::MemoryUse::kLora), Measured());
}

TEST_P(MemoryTest, OfAForwardPassIsAsEstimated) {
  model::Transformer network(base_, compute_);
  network->eval();
  const torch::NoGradGuard no_grad;
  ExpectNear(Estimated(model::MemoryUse::kInference), PeakOf([&] { network->Loss(input_, targets_); }));
}

TEST_P(MemoryTest, OfFullTrainingIsAsEstimated) {
  if (settings_.bf16) GTEST_SKIP() << "full training is in float32";
  model::Transformer network(base_->spec, /*seed=*/1);
  network->train();
  const model::MemoryEstimate estimate = EstimateMemory(base_->spec, model::MemoryUse::kFull, settings_);
  // Gradients come into being during the step.
  ExpectNear(estimate.activations + estimate.gradients, PeakOf([&] { network->Loss(input_, targets_).backward(); }));
}

class LossOfBatch final : public zo::Objective {
 public:
  explicit LossOfBatch(std::function<double()> loss) : loss_(std::move(loss)) {}
  Result<double> Loss() override { return loss_(); }

 private:
  std::function<double()> loss_;
};

// All weights moved along a direction, back, and by the step.
TEST_P(MemoryTest, OfAZerothOrderStepIsAsEstimated) {
  if (settings_.bf16) GTEST_SKIP() << "what is moved is float32";
  model::Transformer network(base_->spec, /*seed=*/1);
  network->eval();
  std::vector<zo::TrainedTensor> moved;
  for (auto& item : network->named_parameters()) {
    item.value().set_requires_grad(false);
    moved.push_back({item.key(), {item.value().data_ptr<float>(), static_cast<size_t>(item.value().numel())}});
  }
  auto weights = zo::TrainedWeights::Make(std::move(moved), zo::Distribution::kRademacher, 1e-3);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const torch::NoGradGuard no_grad;
  LossOfBatch objective([&] { return network->Loss(input_, targets_).item<double>(); });
  const auto estimator = zo::Estimator::Make({});
  const double measured = PeakOf([&] {
    const auto step = estimator->RunAndStep(*weights, 1, objective, 1e-3);
    EXPECT_TRUE(step.ok()) << step.status();
    EXPECT_EQ(step->forward_passes, 2U);
  });
  const model::MemoryEstimate estimate = EstimateMemory(base_->spec, model::MemoryUse::kZerothOrder, settings_);
  EXPECT_EQ(estimate.gradients + estimate.optimizer, 0);
  ExpectNear(estimate.activations, measured);
}

TEST_P(MemoryTest, OfForwardModeDifferentiationIsAsEstimated) {
  if (settings_.bf16 || base_->spec.head.task != model::Task::kCausalLm) GTEST_SKIP() << "one kind of model is enough";
  model::Transformer network(base_, compute_);
  const auto targets = *peft::FindTargets(base_->spec.LinearModules(), adapter_);
  ASSERT_TRUE(peft::InjectLora(network, adapter_, peft::MakeInitialAdapter(targets, adapter_, 1)).ok());
  network->eval();
  std::vector<torch::Tensor> parameters, tangents;
  for (const auto& [path, linear] : network->LinearModules()) {
    if (linear->lora_A.defined()) parameters.insert(parameters.end(), {linear->lora_A, linear->lora_B});
  }
  for (const torch::Tensor& parameter : parameters) tangents.push_back(torch::randn_like(parameter).detach());
  settings_.tangents = true;
  ExpectNear(Estimated(model::MemoryUse::kInference), PeakOf([&] {
               const auto along =
                   zo::DirectionalDerivative(parameters, tangents, [&] { return network->Loss(input_, targets_); });
               EXPECT_TRUE(along.ok()) << along.status();
             }));
}

INSTANTIATE_TEST_SUITE_P(Models, MemoryTest, testing::ValuesIn(MemoryCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace heddle::client
