// Every kind of adapter on a Transformer: what it computes, against independent float64 code and finite differences,
// and putting it in, taking it out, merging and stacking it.
#include "peft/tuning/tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "common/digest.h"
#include "common/random.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/reference_case.h"
#include "tests/unit/peft/tuning_cases.h"

namespace heddle::peft {
namespace {

using ::testing::HasSubstr;

const model::ComputeOptions kDouble{.type = at::kDouble};

// Bytes of all weights of a base, to see that nothing has written to them.
Sha256Digest DigestOf(const model::BaseWeights& base) {
  StateDict all;
  for (const auto& [name, tensor] : base.tensors) all.emplace(name, ToStateTensor(tensor));
  for (const auto& [name, matrix] : base.packed) all.emplace(name, ToStateTensor(matrix->Dense(at::kFloat)));
  return Sha256(SerializeSafetensors(all));
}

class TuningCases : public ::testing::TestWithParam<std::string> {};

TEST_P(TuningCases, ComputeWhatIndependentFloat64CodeComputes) {
  const TuningCase c(GetParam());
  for (const Use use : {Use::kTrain, Use::kFrozen}) {
    model::Transformer model(c.base, kDouble);
    const auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors, use);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    // DoRA's norms are float32.
    const double tolerance = c.adapter.config.use_dora ? 1e-5 : 1e-9;
    EXPECT_LT(c.Difference(model->forward(c.Input())), tolerance);
  }
  // In float32 rounding is all that is added.
  model::Transformer single(c.base);
  ASSERT_TRUE(Tuning::Inject(single, c.adapter.config, c.adapter.tensors).ok());
  const double size = c.Array("logits").abs().max().item<double>();
  EXPECT_LT(c.Difference(single->forward(c.Input())), 1e-5 * size);
}

TEST_P(TuningCases, ChangeWhatTheModelComputesUntilTheyAreRemoved) {
  const TuningCase c(GetParam());
  model::Transformer model(c.base);
  const Sha256Digest before = DigestOf(*c.base);
  const torch::NoGradGuard no_grad;
  const torch::Tensor plain = model->forward(c.Input());
  auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_GT(c.Difference(model->forward(c.Input()), plain), 1e-3);
  ASSERT_TRUE(tuning->Remove().ok());
  EXPECT_TRUE(torch::equal(model->forward(c.Input()), plain));
  EXPECT_EQ(tuning->Remove().code(), Code::kFailedPrecondition);
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_FALSE(parameter.value().requires_grad()) << parameter.key();
    EXPECT_EQ(parameter.value().data_ptr(), c.base->tensors.at(parameter.key()).data_ptr()) << parameter.key();
  }
  EXPECT_EQ(DigestOf(*c.base), before);
}

TEST_P(TuningCases, AreTheSameBytesAfterSavingLoadingAndSaving) {
  const TuningCase c(GetParam());
  const auto stored = *ReadFile(c.folder / "adapter_config.json", 1 << 16);
  EXPECT_EQ(c.adapter.config.ToJson(), stored);
  model::Transformer model(c.base);
  const auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  StateDict own = c.adapter.tensors;
  std::erase_if(own, [](const auto& item) { return item.first.starts_with("heddle."); });
  EXPECT_EQ(SerializeSafetensors(tuning->Extract()), SerializeSafetensors(own));
  const TempDir dir;
  ASSERT_TRUE(WriteAdapter(dir.path(), c.adapter.config, c.adapter.tensors).ok());
  const auto again = ReadAdapter(dir.path());
  ASSERT_TRUE(again.ok()) << again.status();
  const TempDir second;
  ASSERT_TRUE(WriteAdapter(second.path(), again->config, again->tensors).ok());
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(*ReadFile(dir.path() / name, 1 << 20), *ReadFile(second.path() / name, 1 << 20)) << name;
  }
}

TEST_P(TuningCases, HaveTheKeysAndShapesThatTheirConfigurationSays) {
  const TuningCase c(GetParam());
  StateDictSpec own = SpecOf(c.adapter.tensors);
  std::erase_if(own, [](const auto& item) { return item.first.starts_with("heddle."); });
  const auto spec = AdapterSpec(c.base->spec, c.adapter.config);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(*spec, own);
}

TEST_P(TuningCases, HaveTheGradientsThatDifferencesOfTheLossHave) {
  const TuningCase c(GetParam());
  model::Transformer model(c.base, kDouble);
  auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  const torch::Tensor targets = c.Targets();
  model->Loss(c.Input(), targets).backward();
  const torch::NoGradGuard no_grad;
  for (const TunedParameter& parameter : tuning->parameters()) {
    // DoRA takes the norm for a constant: the gradients of its factors are not those of the loss.
    const bool factor = parameter.key.ends_with("lora_A.weight") || parameter.key.ends_with("lora_B.weight");
    if (c.adapter.config.use_dora && factor) continue;
    torch::Tensor values = parameter.tensor;
    // What no input reaches (embeddings of other words, types, the second half of a table) has no gradient.
    const torch::Tensor gradient = values.grad().defined() ? values.grad() : torch::zeros_like(values);
    torch::Tensor direction = torch::empty_like(values);
    const PhiloxStream random(DeriveSeed(1, "direction", parameter.key));
    for (int64_t i = 0; i < direction.numel(); ++i) {
      direction.data_ptr<float>()[i] = random.UniformAt(static_cast<uint64_t>(i)) < 0.5F ? -1.0F : 1.0F;
    }
    const double along = (gradient.to(at::kDouble) * direction).sum().item<double>();
    const torch::Tensor start = values.clone();
    const auto loss_at = [&](double step) {
      values.copy_(start + direction * step);
      return model->Loss(c.Input(), targets).item<double>();
    };
    const double h = 0x1p-10;
    const double difference = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    values.copy_(start);
    // The parameters themselves are float32: a step of h is off by up to 2^-24 of their size.
    EXPECT_NEAR(along, difference, 1e-3 * (1 + std::abs(difference))) << parameter.key;
  }
}

TEST_P(TuningCases, MergeIntoWeightsThatComputeTheSameAndUnmergeToTheLastBit) {
  const TuningCase c(GetParam());
  model::Transformer model(c.base);
  auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  const torch::NoGradGuard no_grad;
  const torch::Tensor tuned = model->forward(c.Input());
  const auto weights = MergedWeights(c.base, c.adapter.config, c.adapter.tensors);
  if (!c.Merges()) {
    EXPECT_EQ(Merge(model).code(), Code::kInvalidArgument);
    EXPECT_EQ(weights.status().code(), Code::kInvalidArgument);
    EXPECT_TRUE(torch::equal(model->forward(c.Input()), tuned));
    return;
  }
  const double size = tuned.abs().max().item<double>();
  ASSERT_TRUE(Merge(model).ok());
  EXPECT_LT(c.Difference(model->forward(c.Input()), tuned), 1e-5 * size);
  const TuningKind kind = c.adapter.config.kind();
  if (kind == TuningKind::kLora || kind == TuningKind::kIa3) {  // the others are weights already
    EXPECT_EQ(tuning->Remove().code(), Code::kFailedPrecondition);
    EXPECT_THAT(tuning->Remove().message(), HasSubstr("merged"));
  }
  Unmerge(model);
  EXPECT_TRUE(torch::equal(model->forward(c.Input()), tuned));
  ASSERT_TRUE(weights.ok()) << weights.status();
  auto whole = std::make_shared<model::BaseWeights>();
  whole->spec = c.base->spec;
  for (const auto& [name, tensor] : *weights) whole->tensors.emplace(name, ToTorchTensor(tensor));
  EXPECT_LT(c.Difference(model::Transformer(whole)->forward(c.Input()), tuned), 1e-5 * size);
}

// The matrices of the base as int8, NF4 or bfloat16: the same as on a base of what these are in float32.
TEST_P(TuningCases, StandOnBasesThatAreKeptInLessThanFloat32) {
  for (const model::WeightType type :
       {model::WeightType::kBfloat16, model::WeightType::kInt8, model::WeightType::kNf4}) {
    const TuningCase c(GetParam(), type);
    auto dense = std::make_shared<model::BaseWeights>();
    dense->spec = c.base->spec;
    for (const auto& [name, tensor] : c.base->tensors) dense->tensors.emplace(name, tensor.to(at::kFloat));
    for (const auto& [name, matrix] : c.base->packed) dense->tensors.emplace(name, matrix->Dense(at::kFloat));
    const Sha256Digest before = DigestOf(*c.base);
    const uint64_t bytes = c.base->bytes();
    model::Transformer narrow(c.base, kDouble), wide(dense, kDouble);
    auto tuning = Tuning::Inject(narrow, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    auto same = Tuning::Inject(wide, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(same.ok()) << same.status();
    EXPECT_LT(c.Difference(narrow->forward(c.Input()), wide->forward(c.Input()).detach()), 1e-5);
    narrow->Loss(c.Input(), c.Targets()).backward();
    wide->Loss(c.Input(), c.Targets()).backward();
    for (size_t i = 0; i < tuning->parameters().size(); ++i) {
      const torch::Tensor a = tuning->parameters()[i].tensor.grad(), b = same->parameters()[i].tensor.grad();
      ASSERT_EQ(a.defined(), b.defined()) << tuning->parameters()[i].key;
      if (!a.defined()) continue;
      EXPECT_LT((a - b).abs().max().item<double>(), 1e-5) << tuning->parameters()[i].key;
    }
    ASSERT_TRUE(tuning->Remove().ok());
    EXPECT_EQ(DigestOf(*c.base), before);
    EXPECT_EQ(c.base->bytes(), bytes);
  }
}

// As in training with recomputed activations: the same gradients, bit for bit.
TEST_P(TuningCases, TrainTheSameWithRecomputedActivations) {
  const TuningCase c(GetParam());
  std::vector<StateDict> gradients;
  for (const bool recompute : {false, true}) {
    model::Transformer model(c.base, model::ComputeOptions{.checkpoint_layers = recompute});
    auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    model->Loss(c.Input(), c.Targets()).backward();
    StateDict of_run;
    for (const TunedParameter& parameter : tuning->parameters()) {
      const torch::Tensor grad = parameter.tensor.grad();
      if (grad.defined()) of_run.emplace(parameter.key, ToStateTensor(grad));
    }
    gradients.push_back(std::move(of_run));
  }
  ASSERT_EQ(SpecOf(gradients[0]), SpecOf(gradients[1]));
  for (const auto& [key, tensor] : gradients[0]) {
    const torch::Tensor a = ToTorchTensor(tensor), b = ToTorchTensor(gradients[1].at(key));
    // Prefixes and prompts are added up over layers in another order.
    EXPECT_LT((a - b).abs().max().item<double>(), 1e-6 * (1 + a.abs().max().item<double>())) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TuningCases, ::testing::ValuesIn(TuningCase::Names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// ---- what is not a matter of each kind ----

TEST(Tuning, DecodingWithACacheGivesTheLogitsOfTheWholeText) {
  for (const char* name : {"prompt", "prefix", "p-tuning", "houlsby", "ia3", "dora", "key-value"}) {
    const TuningCase c(name);
    if (c.base->spec.head.task != model::Task::kCausalLm) continue;
    model::Transformer model(c.base, kDouble);
    ASSERT_TRUE(Tuning::Inject(model, c.adapter.config, c.adapter.tensors, Use::kFrozen).ok());
    const torch::Tensor ids = c.Array("ids").slice(0, 0, 1);
    model::KvCache cache;
    const torch::NoGradGuard no_grad;
    const torch::Tensor whole = model->forward(ids);
    for (int64_t at = 0; at < ids.size(1);) {
      const int64_t step = at == 0 ? 3 : 1;  // a prompt, then token by token
      const torch::Tensor logits = model->Decode({.ids = ids.slice(1, at, at + step)}, &cache);
      at += step;
      EXPECT_LT((logits - whole.select(1, at - 1)).abs().max().item<double>(), 1e-9) << name << " " << at;
    }
  }
}

TEST(Tuning, TheFactorsOfDoraHaveTheGradientOfAConstantNorm) {
  const TuningCase c("dora");
  model::Transformer model(c.base, kDouble);
  auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok());
  model->Loss(c.Input(), c.Targets()).backward();
  // The same by an ordinary parameter: W' = m / |W + s B A| (W + s B A), differentiated with respect to W' by the
  // model, and from there to the factors by hand.
  const auto weights = *MergedWeights(c.base, c.adapter.config, c.adapter.tensors);
  auto whole = std::make_shared<model::BaseWeights>();
  whole->spec = c.base->spec;
  for (const auto& [name, tensor] : weights) whole->tensors.emplace(name, ToTorchTensor(tensor));
  model::Transformer merged(whole, kDouble);
  for (auto& parameter : merged->parameters()) parameter.requires_grad_(true);
  merged->Loss(c.Input(), c.Targets()).backward();
  const auto by_key = [&](const std::string& key) {
    for (const TunedParameter& parameter : tuning->parameters()) {
      if (parameter.key == key) return parameter.tensor;
    }
    return torch::Tensor();
  };
  const double s = c.adapter.config.scaling();
  for (const char* path : {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate_proj"}) {
    const torch::Tensor g = merged->named_parameters()[std::string(path) + ".weight"].grad().to(at::kDouble);
    const torch::Tensor a = by_key(LoraAKey(path)), b = by_key(LoraBKey(path));
    const torch::Tensor m = by_key("base_model.model." + std::string(path) + ".lora_magnitude_vector");
    const torch::Tensor sum = c.base->tensors.at(std::string(path) + ".weight").to(at::kDouble) +
                              s * torch::mm(b.detach().to(at::kDouble), a.detach().to(at::kDouble));
    const torch::Tensor norm = sum.norm(2, 1);
    const torch::Tensor turned = g * (m.detach().to(at::kDouble) / norm).unsqueeze(1);  // with respect to W + s B A
    const auto near = [&](const torch::Tensor& actual, const torch::Tensor& expected) {
      EXPECT_LT((actual.to(at::kDouble) - expected).abs().max().item<double>(), 1e-5) << path;
    };
    near(a.grad(), s * torch::mm(b.detach().to(at::kDouble).t(), turned));
    near(b.grad(), s * torch::mm(turned, a.detach().to(at::kDouble).t()));
    near(m.grad(), (g * sum / norm.unsqueeze(1)).sum(1));
  }
}

TEST(Tuning, StackedLoraAddsUpAndOnlyOneOfThemIsTrained) {
  const TuningCase first("lora"), second("lora-patterns");
  model::Transformer model(first.base, kDouble);
  const auto run = [&] { return model->forward(first.Input()).detach(); };
  const torch::Tensor plain = run();
  auto frozen = Tuning::Inject(model, first.adapter.config, first.adapter.tensors, Use::kFrozen);
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  auto trained = Tuning::Inject(model, second.adapter.config, second.adapter.tensors);
  ASSERT_TRUE(trained.ok()) << trained.status();
  const torch::Tensor both = run();
  // As one base with the first merged into it, and the second on top.
  const auto weights = *MergedWeights(first.base, first.adapter.config, first.adapter.tensors);
  auto whole = std::make_shared<model::BaseWeights>();
  whole->spec = first.base->spec;
  for (const auto& [name, tensor] : weights) whole->tensors.emplace(name, ToTorchTensor(tensor));
  model::Transformer on_top(whole, kDouble);
  ASSERT_TRUE(Tuning::Inject(on_top, second.adapter.config, second.adapter.tensors).ok());
  EXPECT_LT((both - on_top->forward(first.Input()).detach()).abs().max().item<double>(), 1e-4);
  model->Loss(first.Input(), first.Targets()).backward();
  for (const TunedParameter& one : frozen->parameters()) EXPECT_FALSE(one.tensor.grad().defined()) << one.key;
  for (const TunedParameter& one : trained->parameters()) EXPECT_TRUE(one.tensor.grad().defined()) << one.key;
  EXPECT_EQ(Tuning::Inject(model, first.adapter.config, first.adapter.tensors).status().code(),
            Code::kFailedPrecondition);
  // Merged and unmerged as one; taken out in any order.
  ASSERT_TRUE(Merge(model).ok());
  EXPECT_LT((run() - both).abs().max().item<double>(), 1e-4);
  Unmerge(model);
  ASSERT_TRUE(frozen->Remove().ok());
  ASSERT_TRUE(trained->Remove().ok());
  EXPECT_TRUE(torch::equal(run(), plain));
}

TEST(Tuning, AStepOfAnotherTaskOnTheSameBaseDoesNotSpoilABackwardPass) {
  for (const char* name : {"lora-classes", "full", "bitfit"}) {  // what replaces parameters of the base
    const TuningCase c(name);
    model::Transformer one(c.base), other(c.base);
    const auto here = Tuning::Inject(one, c.adapter.config, c.adapter.tensors);
    const auto there = Tuning::Inject(other, c.adapter.config, c.adapter.tensors);
    ASSERT_TRUE(here.ok() && there.ok()) << name;
    const torch::Tensor loss = one->Loss(c.Input(), c.Targets());
    {
      const torch::NoGradGuard no_gradients;
      for (const TunedParameter& parameter : there->parameters()) torch::Tensor(parameter.tensor).mul_(0.5);
    }
    EXPECT_NO_THROW(loss.backward()) << name;
    for (const TunedParameter& parameter : here->parameters()) {
      EXPECT_TRUE(parameter.tensor.grad().defined()) << name << " " << parameter.key;
    }
  }
}

TEST(Tuning, EachOfSeveralKindsMayBeStackedWhereTheyDoNotMeet) {
  const TuningCase houlsby("houlsby"), lora("lora-classes"), prompt("prompt-classes");
  model::Transformer model(houlsby.base, kDouble);
  auto one = Tuning::Inject(model, houlsby.adapter.config, houlsby.adapter.tensors, Use::kFrozen);
  ASSERT_TRUE(one.ok()) << one.status();
  auto two = Tuning::Inject(model, lora.adapter.config, lora.adapter.tensors);
  ASSERT_TRUE(two.ok()) << two.status();
  // Both bring a classifier.
  const Status twice = Tuning::Inject(model, prompt.adapter.config, prompt.adapter.tensors, Use::kFrozen).status();
  EXPECT_EQ(twice.code(), Code::kInvalidArgument);
  EXPECT_THAT(twice.message(), HasSubstr("classifier.bias already"));
  AdapterConfig scales;
  scales.peft_type = "IA3";
  scales.target_modules = {"query"};
  StateDict ones;
  const auto wanted = *AdapterSpec(houlsby.base->spec, scales);
  for (const auto& [key, spec] : wanted) {
    ones.emplace(key, Tensor::FromFloats(spec.shape, std::vector<float>(12, 1.0F)));
  }
  const Status meet = Tuning::Inject(model, scales, ones, Use::kFrozen).status();
  EXPECT_EQ(meet.code(), Code::kInvalidArgument);
  EXPECT_THAT(meet.message(), HasSubstr("LORA and IA3 cannot both be on"));
}

TEST(Tuning, TwoPromptsStandOneBehindTheOther) {
  const TuningCase c("prompt");
  AdapterConfig longer = c.adapter.config;
  longer.num_virtual_tokens = 6;
  const std::span<const float> rows = c.adapter.tensors.at("prompt_embeddings").values<float>();
  std::vector<float> twice(rows.begin(), rows.end());
  twice.insert(twice.end(), rows.begin(), rows.end());
  StateDict whole;
  whole.emplace("prompt_embeddings", Tensor::FromFloats({6, 16}, twice));
  model::Transformer one(c.base, kDouble), two(c.base, kDouble);
  ASSERT_TRUE(Tuning::Inject(one, longer, whole).ok());
  ASSERT_TRUE(Tuning::Inject(two, c.adapter.config, c.adapter.tensors, Use::kFrozen).ok());
  ASSERT_TRUE(Tuning::Inject(two, c.adapter.config, c.adapter.tensors).ok());
  EXPECT_TRUE(torch::equal(one->forward(c.Input()), two->forward(c.Input())));
}

TEST(Tuning, FactorBLearnsAtARateOfItsOwn) {
  TuningCase c("lora");
  c.adapter.config.loraplus_lr_ratio = 16;
  model::Transformer model(c.base);
  const auto tuning = Tuning::Inject(model, c.adapter.config, c.adapter.tensors);
  ASSERT_TRUE(tuning.ok());
  for (const TunedParameter& one : tuning->parameters()) {
    EXPECT_EQ(one.rate_factor, one.key.ends_with("lora_B.weight") ? 16 : 1) << one.key;
  }
}

TEST(Tuning, AWrongAdapterIsRefusedAndTheModelUnchanged) {
  const TuningCase c("lora-on-folded-base"), other("lora-classes");
  model::Transformer model(c.base, kDouble);
  const torch::Tensor plain = model->forward(c.Input());
  const auto refused = [&](const AdapterConfig& config, const StateDict& tensors, const char* said) {
    const Status status = Tuning::Inject(model, config, tensors).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << said;
    EXPECT_THAT(status.message(), HasSubstr(said));
    EXPECT_TRUE(torch::equal(model->forward(c.Input()), plain)) << said;
  };
  const std::string a = "heddle.base_delta.model.layers.0.self_attn.q_proj.lora_A.weight";
  const std::string b = "heddle.base_delta.model.layers.0.self_attn.q_proj.lora_B.weight";
  const auto without = [&](const std::string& key) {
    StateDict tensors = c.adapter.tensors;
    tensors.erase(key);
    return tensors;
  };
  refused(c.adapter.config, without(LoraAKey("model.layers.1.self_attn.q_proj")), "does not fit the base model");
  refused(c.adapter.config, without(b), "lacks its lora_B");
  refused(c.adapter.config, without(a), "no lora_A beside it");
  StateDict turned = c.adapter.tensors;
  turned[a] = c.adapter.tensors.at(b);
  refused(c.adapter.config, turned, "does not fit a layer from 16 to 16");
  StateDict stray = c.adapter.tensors;
  stray["heddle.base_delta.model.layers.7.self_attn.q_proj.lora_A.weight"] = stray.at(a);
  refused(c.adapter.config, stray, "does not have");
  refused(other.adapter.config, other.adapter.tensors, "no module 'classifier'");
  AdapterConfig pissa = c.adapter.config;
  pissa.use_dora = false;
  pissa.init_lora_weights = "pissa";
  StateDict plain_lora = c.adapter.tensors;
  std::erase_if(plain_lora, [](const auto& item) { return !item.first.ends_with(".weight") || item.first[0] == 'h'; });
  refused(pissa, plain_lora, "what was taken off the base");
  const TuningCase prompt("prefix-classes");
  refused(prompt.adapter.config, prompt.adapter.tensors, "another base model");
}

TEST(Tuning, WhatAMethodRemembersIsNoneOfItsBusiness) {
  const TuningCase c("lora");
  StateDict with = c.adapter.tensors;
  with.emplace("heddle.control." + LoraAKey("model.layers.0.self_attn.q_proj"), c.adapter.tensors.begin()->second);
  model::Transformer model(c.base);
  const auto tuning = Tuning::Inject(model, c.adapter.config, with);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(SpecOf(tuning->Extract()), SpecOf(c.adapter.tensors));
}

// Each kind's first values, on the models of the cases.
TEST_P(TuningCases, ChangeNothingBeforeTheFirstStepUnlessTheyAreVirtualTokens) {
  const TuningCase c(GetParam());
  std::vector<AdapterConfig> configs = {c.adapter.config};
  if (configs[0].kind() == TuningKind::kLora && !configs[0].use_dora) {
    for (const char* init : {"gaussian", "pissa", "pissa_niter_4"}) {
      configs.push_back(configs[0]);
      configs.back().init_lora_weights = init;
    }
  }
  const StateDict weights = ReadModelSafetensors(c.base_folder)->tensors;
  for (const AdapterConfig& config : configs) {
    const auto fresh = MakeInitialAdapter(c.base->spec, config, weights, 5);
    ASSERT_TRUE(fresh.ok()) << fresh.status();
    model::Transformer model(c.base, kDouble);
    const torch::Tensor plain = model->forward(c.Input()).detach();
    auto tuning = Tuning::Inject(model, config, *fresh);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    const double apart = c.Difference(model->forward(c.Input()), plain);
    if (IsPromptLearning(config.kind())) {
      EXPECT_GT(apart, 1e-6);
    } else {
      EXPECT_LT(apart, 1e-5 * plain.abs().max().item<double>()) << config.init_lora_weights;
    }
    // And all of it can learn: B at least, where A waits for it.
    model->Loss(c.Input(), c.Targets()).backward();
    double gradient = 0;
    for (const TunedParameter& one : tuning->parameters()) {
      if (one.tensor.grad().defined()) gradient += one.tensor.grad().abs().max().item<double>();
    }
    EXPECT_GT(gradient, 1e-4);
  }
}

}  // namespace
}  // namespace heddle::peft
