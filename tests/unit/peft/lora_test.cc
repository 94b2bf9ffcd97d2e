// LoRA on a Transformer: what it computes, against merged weights and finite differences, and what it refuses.
#include "peft/lora/lora.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "common/random.h"
#include "common/safetensors.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/difference.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

using model::MaxDifference;

torch::Tensor ToTorch(const Tensor& tensor) {
  return torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), torch::kFloat).clone();
}

std::shared_ptr<const model::BaseWeights> TinyBase(bool tied = true) {
  auto base = std::make_shared<model::BaseWeights>();
  base->spec = model::TinyConfig();
  base->spec.tie_word_embeddings = tied;
  for (const auto& [name, tensor] : model::RandomWeights(base->spec, 1)) base->tensors.emplace(name, ToTorch(tensor));
  return base;
}

AdapterConfig Config(std::vector<std::string> targets) {
  AdapterConfig config;
  config.r = 3;
  config.lora_alpha = 6;
  config.target_modules = std::move(targets);
  return config;
}

// Factors that are both not zero.
StateDict RandomAdapter(const model::ModelSpec& base, const AdapterConfig& config, uint64_t seed) {
  const auto targets = *FindTargets(base.LinearModules(), config);
  StateDict adapter;
  for (const auto& [name, spec] : AdapterSpec(targets, config)) {
    const PhiloxStream random(DeriveSeed(seed, "test adapter", name));
    std::vector<float> values(static_cast<size_t>(*NumElements(spec.shape)));
    for (size_t i = 0; i < values.size(); ++i) values[i] = (2 * random.UniformAt(i) - 1) * 0.3F;
    adapter.emplace(name, Tensor::FromFloats(spec.shape, values));
  }
  return adapter;
}

torch::Tensor Ids(int64_t batch, int64_t length) {
  torch::Tensor ids = torch::empty({batch, length}, torch::kLong);
  PhiloxStream random(3);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data_ptr<int64_t>()[i] = random.NextBelow(320);
  return ids;
}

std::shared_ptr<const model::BaseWeights> WithWeights(const model::BaseWeights& base, const StateDict& weights) {
  auto out = std::make_shared<model::BaseWeights>();
  out->spec = base.spec;
  for (const auto& [name, tensor] : weights) out->tensors.emplace(name, ToTorch(tensor));
  return out;
}

TEST(InjectLora, TheInitialAdapterChangesNothing) {
  const auto base = TinyBase();
  const auto config = Config({"all-linear"});
  model::Transformer plain(base), adapted(base);
  const auto targets = *FindTargets(base->spec.LinearModules(), config);
  ASSERT_TRUE(InjectLora(adapted, config, MakeInitialAdapter(targets, config, 1)).ok());
  torch::NoGradGuard no_grad;
  EXPECT_EQ(MaxDifference(plain->forward(Ids(2, 9)), adapted->forward(Ids(2, 9))), 0.0);
}

TEST(InjectLora, OutputsEqualThoseOfTheMergedWeights) {
  for (const bool tied : {true, false}) {
    const auto base = TinyBase(tied);
    auto config = Config(tied ? std::vector<std::string>{"all-linear"} : std::vector<std::string>{"lm_head", "v_proj"});
    config.use_rslora = tied;
    const StateDict adapter = RandomAdapter(base->spec, config, 2);
    model::Transformer adapted(base), plain(base);
    ASSERT_TRUE(InjectLora(adapted, config, adapter).ok());
    const auto merged = MergedWeights(base, config, adapter);
    ASSERT_TRUE(merged.ok()) << merged.status();
    EXPECT_EQ(SpecOf(*merged), base->spec.WeightSpec());
    model::Transformer whole(WithWeights(*base, *merged));
    torch::NoGradGuard no_grad;
    const auto ids = Ids(2, 11);
    EXPECT_LT(MaxDifference(adapted->forward(ids), whole->forward(ids)), 2e-5);
    EXPECT_GT(MaxDifference(adapted->forward(ids), plain->forward(ids)), 1e-2);  // or the test shows nothing
    const auto targets = ids.roll(1, 1);
    EXPECT_NEAR(adapted->Loss(ids, targets).item<double>(), whole->Loss(ids, targets).item<double>(), 1e-5);
  }
}

TEST(InjectLora, MergedWeightsGiveTheSameWhereverTheMatricesAreStored) {
  // One matrix for three, stored transposed (GPT-2) or by head (GPT-NeoX); projections around the embedding (OPT).
  for (const std::string name : {"gpt2", "gpt-neox", "opt-post", "qwen2"}) {
    const auto base = *model::BaseWeights::Load(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data/models" / name);
    const auto config = Config({"all-linear"});
    const StateDict adapter = RandomAdapter(base->spec, config, 2);
    EXPECT_EQ(adapter.size(), 2 * (base->spec.LinearModules().size() - (name == "gpt-neox" ? 1 : 0))) << name;
    model::Transformer adapted(base), plain(base);
    const Status injected = InjectLora(adapted, config, adapter);
    ASSERT_TRUE(injected.ok()) << injected;
    const auto merged = MergedWeights(base, config, adapter);
    ASSERT_TRUE(merged.ok()) << merged.status();
    EXPECT_EQ(SpecOf(*merged), base->spec.WeightSpec()) << name;
    model::Transformer whole(WithWeights(*base, *merged));
    torch::NoGradGuard no_grad;
    const auto ids = Ids(2, 11).remainder(37);
    const double size = plain->forward(ids).abs().max().item<double>();
    EXPECT_LT(MaxDifference(adapted->forward(ids), whole->forward(ids)), 1e-5 * size) << name;
    EXPECT_GT(MaxDifference(adapted->forward(ids), plain->forward(ids)), 1e-2) << name;
  }
}

// What exact merges fold into the base, on a layer whose matrix is stored as [in, out] and is not square: the product
// of the factors turned round, added by hand.
TEST(InjectLora, WhatIsFoldedIntoTheBaseStandsTheRightWayRoundInATransposedLayer) {
  const auto base = *model::BaseWeights::Load(std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests/data/models/gpt2");
  const auto config = Config({"c_attn", "c_proj"});
  const StateDict adapter = RandomAdapter(base->spec, config, 2);
  StateDict folded = adapter, weights;
  for (const auto& [name, tensor] : base->tensors) weights.emplace(name, ToStateTensor(tensor));
  int64_t changed = 0;
  for (const model::LinearSpec& linear : base->spec.LinearModules()) {
    if (!linear.path.ends_with("c_attn")) continue;
    const auto [a, b] = std::pair(torch::randn({2, linear.in}), torch::randn({linear.out, 2}));
    folded.emplace("heddle.base_delta." + linear.path + ".lora_A.weight", ToStateTensor(a));
    folded.emplace("heddle.base_delta." + linear.path + ".lora_B.weight", ToStateTensor(b));
    const torch::Tensor& before = base->tensors.at(linear.path + ".weight");
    ASSERT_EQ(before.sizes(), torch::IntArrayRef({linear.in, linear.out}));
    ASSERT_NE(linear.in, linear.out);
    torch::Tensor after = before.to(torch::kDouble).clone();
    for (int64_t i = 0; i < linear.in; ++i) {
      for (int64_t o = 0; o < linear.out; ++o) {
        for (int64_t r = 0; r < 2; ++r) after[i][o] += b[o][r].item<double>() * a[r][i].item<double>();
      }
    }
    weights.insert_or_assign(linear.path + ".weight", ToStateTensor(after));
    ++changed;
  }
  ASSERT_EQ(changed, base->spec.num_hidden_layers);
  model::Transformer on_folded(base), by_hand(WithWeights(*base, weights)), plain(base);
  ASSERT_TRUE(Tuning::Inject(on_folded, config, folded).ok());
  ASSERT_TRUE(InjectLora(by_hand, config, adapter).ok());
  ASSERT_TRUE(InjectLora(plain, config, adapter).ok());
  torch::NoGradGuard no_grad;
  const auto ids = Ids(2, 11).remainder(37);
  const double size = plain->forward(ids).abs().max().item<double>();
  EXPECT_LT(MaxDifference(on_folded->forward(ids), by_hand->forward(ids)), 1e-5 * size);
  EXPECT_GT(MaxDifference(on_folded->forward(ids), plain->forward(ids)), 1e-2 * size);
}

TEST(MergedWeights, IsTheProductInFloat64AndLeavesTheRest) {
  const auto base = TinyBase();
  const auto config = Config({"q_proj"});
  const StateDict adapter = RandomAdapter(base->spec, config, 2);
  const auto merged = *MergedWeights(base, config, adapter);
  for (const auto& [name, tensor] : merged) {
    const auto before = base->tensors.at(name).to(torch::kDouble);
    const auto after = ToTorch(tensor).to(torch::kDouble);
    if (!name.ends_with("q_proj.weight")) {
      EXPECT_TRUE(torch::equal(before, after)) << name;
      continue;
    }
    const std::string path = name.substr(0, name.size() - 7);
    const auto a = ToTorch(adapter.at(LoraAKey(path))).to(torch::kDouble);
    const auto b = ToTorch(adapter.at(LoraBKey(path))).to(torch::kDouble);
    EXPECT_LT(MaxDifference(after, before + 2.0 * torch::matmul(b, a)), 1e-7) << name;
  }
}

TEST(InjectLora, GradientsMatchCentralDifferencesOfTheLoss) {
  const auto base = TinyBase();
  const auto config = Config({"all-linear"});
  const StateDict adapter = RandomAdapter(base->spec, config, 4);
  model::Transformer network(base);
  ASSERT_TRUE(InjectLora(network, config, adapter).ok());
  const auto ids = Ids(2, 12), targets = ids.roll(-1, 1);
  network->Loss(ids, targets).backward();
  torch::NoGradGuard no_grad;
  // Along a random direction for each factor: one number that every entry of the gradient has a part in.
  for (const auto& [key, parameter] : LoraParameters(network)) {
    ASSERT_TRUE(parameter.grad().defined()) << key;
    torch::Tensor direction = torch::empty_like(parameter);
    const PhiloxStream random(DeriveSeed(1, "direction", key));
    for (int64_t i = 0; i < direction.numel(); ++i) {
      direction.data_ptr<float>()[i] = random.UniformAt(static_cast<uint64_t>(i)) < 0.5F ? -1.0F : 1.0F;
    }
    const double along = (parameter.grad() * direction).sum().to(torch::kDouble).item<double>();
    const double h = 2e-3;
    torch::Tensor values = parameter;
    const torch::Tensor start = values.clone();
    const auto loss_at = [&](double step) {
      values.copy_(start + direction * step);
      return network->Loss(ids, targets).item<double>();
    };
    // Fourth-order central difference; float32 losses carry errors of about 1e-7 / h.
    const double difference = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    values.copy_(start);
    EXPECT_NEAR(along, difference, 1e-3 + 1e-2 * std::abs(difference)) << key;
  }
}

TEST(InjectLora, FreezesEverythingElse) {
  const auto base = TinyBase();
  const auto config = Config({"v_proj"});
  model::Transformer network(base);
  ASSERT_TRUE(InjectLora(network, config, RandomAdapter(base->spec, config, 1)).ok());
  network->Loss(Ids(1, 8), Ids(1, 8)).backward();
  size_t with_gradient = 0;
  for (const auto& [key, parameter] : LoraParameters(network)) with_gradient += parameter.grad().defined();
  EXPECT_EQ(with_gradient, 4U);
  for (const auto& [name, tensor] : base->tensors) {
    EXPECT_FALSE(tensor.requires_grad()) << name;
    EXPECT_FALSE(tensor.grad().defined()) << name;
  }
}

TEST(InjectLora, ExtractGivesBackWhatWasPutIn) {
  const auto base = TinyBase();
  const auto config = Config({"q_proj", "up_proj"});
  const StateDict adapter = RandomAdapter(base->spec, config, 1);
  model::Transformer network(base);
  ASSERT_TRUE(InjectLora(network, config, adapter).ok());
  EXPECT_TRUE(SerializeSafetensors(ExtractLora(network)) == SerializeSafetensors(adapter));
  // The factors are copies: training one model does not reach the adapter it came from.
  torch::NoGradGuard no_grad;
  for (auto& [key, parameter] : LoraParameters(network)) parameter.add_(1);
  EXPECT_FALSE(SerializeSafetensors(ExtractLora(network)) == SerializeSafetensors(adapter));
  model::Transformer other(base);
  ASSERT_TRUE(InjectLora(other, config, adapter).ok());
  EXPECT_TRUE(SerializeSafetensors(ExtractLora(other)) == SerializeSafetensors(adapter));
}

TEST(InjectLora, ANewAdapterReplacesTheOldOne) {
  const auto base = TinyBase();
  const auto first = Config({"q_proj", "up_proj"}), second = Config({"v_proj"});
  model::Transformer network(base);
  ASSERT_TRUE(InjectLora(network, first, RandomAdapter(base->spec, first, 1)).ok());
  const StateDict adapter = RandomAdapter(base->spec, second, 2);
  ASSERT_TRUE(InjectLora(network, second, adapter).ok());
  EXPECT_TRUE(SerializeSafetensors(ExtractLora(network)) == SerializeSafetensors(adapter));
}

TEST(InjectLora, AWrongAdapterIsRefusedAndTheModelUnchanged) {
  const auto base = TinyBase();
  const auto config = Config({"q_proj"});
  const StateDict good = RandomAdapter(base->spec, config, 1);
  model::Transformer network(base);
  ASSERT_TRUE(InjectLora(network, config, good).ok());
  const std::string key = LoraAKey("model.layers.0.self_attn.q_proj");
  StateDict missing = good, extra = good, shape = good, dtype = good;
  missing.erase(key);
  extra.emplace(LoraAKey("model.layers.0.self_attn.v_proj"), good.at(key));
  shape[key] = Tensor::FromFloats({32, 3}, std::vector<float>(96));
  std::span<std::byte> bytes;
  dtype[key] = Tensor::Allocate({DType::kF16, {3, 32}}, &bytes);
  for (const StateDict* bad : {&missing, &extra, &shape, &dtype}) {
    const Status status = InjectLora(network, config, *bad);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("lora_A"), std::string::npos) << status;
    EXPECT_EQ(MergedWeights(base, config, *bad).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(InjectLora(network, Config({"query"}), good).code(), Code::kInvalidArgument);
  auto no_rank = config;
  no_rank.r = 0;
  EXPECT_EQ(InjectLora(network, no_rank, good).code(), Code::kInvalidArgument);
  EXPECT_TRUE(SerializeSafetensors(ExtractLora(network)) == SerializeSafetensors(good));
}

TEST(Lora, DropoutActsInTrainingOnlyAndFollowsItsSeed) {
  const auto base = TinyBase();
  auto config = Config({"all-linear"});
  config.lora_dropout = 0.5;
  const StateDict adapter = RandomAdapter(base->spec, config, 1);
  const auto run = [&](uint64_t seed, bool training) {
    model::Transformer network(base);
    EXPECT_TRUE(InjectLora(network, config, adapter).ok());
    network->SeedDropout(seed);
    network->train(training);
    torch::NoGradGuard no_grad;
    return network->forward(Ids(1, 10));
  };
  EXPECT_TRUE(torch::equal(run(1, true), run(1, true)));
  EXPECT_FALSE(torch::equal(run(1, true), run(2, true)));
  EXPECT_TRUE(torch::equal(run(1, false), run(2, false)));
  EXPECT_FALSE(torch::equal(run(1, true), run(1, false)));
}

TEST(Lora, DropoutKeepsTheMeanOfItsInput) {
  torch::Tensor weight = torch::zeros({1, 20'000});
  model::Linear linear(model::LinearSpec{"linear", 20'000, 1}, weight, torch::Tensor(), false);
  linear->lora_A = torch::full({1, 20'000}, 1.0 / 20'000);
  linear->lora_B = torch::ones({1, 1});
  linear->scaling = 1;
  linear->dropout = 0.25;
  linear->train();
  torch::manual_seed(1);
  const double mean = linear->forward(torch::ones({1, 20'000})).item<double>();
  EXPECT_NE(mean, 1.0);
  EXPECT_NEAR(mean, 1.0, 0.02);  // standard deviation 0.004
}

TEST(Lora, RealWeightsMergeToo) {
  HEDDLE_NEEDS_TEST_DATA("stories15m");
  const auto base = *model::BaseWeights::Load(model::TestDataFolder() / "stories15m");
  const auto config = Config({"all-linear"});
  StateDict adapter = RandomAdapter(base->spec, config, 2);
  model::Transformer adapted(base);
  ASSERT_TRUE(InjectLora(adapted, config, adapter).ok());
  model::Transformer whole(WithWeights(*base, *MergedWeights(base, config, adapter)));
  torch::NoGradGuard no_grad;
  const auto ids = Ids(1, 20), targets = ids.roll(-1, 1);
  EXPECT_NEAR(adapted->Loss(ids, targets).item<double>(), whole->Loss(ids, targets).item<double>(), 1e-4);
}

}  // namespace
}  // namespace heddle::peft
