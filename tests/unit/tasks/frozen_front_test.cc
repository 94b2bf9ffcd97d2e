// The frozen front: where it ends, that a loss behind it has the bits of a whole forward pass, that nothing which is
// kept or not changes what a task returns, and how much is kept.
#include "client/worker/frozen_front.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "client/worker/lora_sft.h"
#include "client/worker/memory_need.h"
#include "client/worker/train_options.h"
#include "client/worker/zo_ledger.h"
#include "client/worker/zo_sft.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "peft/adapter/initial.h"
#include "tests/unit/tasks/task_fixture.h"
#include "tests/unit/tasks/word_pieces.h"

namespace heddle::client {
namespace {

constexpr const char* kThreeLayerBert = R"({"architectures": ["BertForSequenceClassification"], "hidden_size": 24,
  "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20, "max_position_embeddings": 32,
  "type_vocab_size": 2, "pad_token_id": 0, "id2label": {"0": "negative", "1": "positive"}})";
constexpr const char* kVit = R"({"architectures": ["ViTForImageClassification"], "hidden_size": 24,
  "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32, "image_size": 8, "patch_size": 4,
  "num_channels": 3, "id2label": {"0": "left", "1": "right"}})";

model::ModelSpec SpecOf(const char* json) { return *model::ParseModelConfig(json); }

TEST(FrozenLayers, EndAtTheFirstThatIsTrained) {
  const model::ModelSpec bert = SpecOf(kThreeLayerBert);
  const std::string layer1 = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.weight",
                    layer2 = "base_model.model.bert.encoder.layer.2.output.dense.bias",
                    head = "base_model.model.classifier.weight", pooler = "base_model.model.bert.pooler.dense.weight";
  EXPECT_EQ(FrozenLayers(bert, {layer2, head}), 2);
  EXPECT_EQ(FrozenLayers(bert, {layer2, layer1}), 1);
  EXPECT_EQ(FrozenLayers(bert, {head, pooler}), 3) << "only the head is trained";
  EXPECT_EQ(FrozenLayers(bert, {head, "base_model.model.bert.embeddings.word_embeddings.weight"}), 0);
  for (const char* unknown :
       {"prompt_embeddings", "heddle.dense.bert.encoder.layer.2.output.dense", "classifier.weight",
        "base_model.model.classifier2.weight", "base_model.model.bert.encoder.layer.3.x", ""}) {
    EXPECT_EQ(FrozenLayers(bert, {head, unknown}), 0) << unknown;
  }
  // The last layers as a model of their own: layers are counted from the first that is there.
  model::ModelSpec part = bert;
  part.part.layers = {0, 2};
  EXPECT_EQ(FrozenLayers(part, {layer2}), 1);
  const model::ModelSpec tied = model::TinyConfig();
  EXPECT_EQ(FrozenLayers(tied, {"base_model.model.lm_head.weight"}), 0) << "it is the token embedding";
  EXPECT_EQ(FrozenLayers(tied, {"base_model.model.model.norm.weight"}), 2);
}

class FrozenFrontTest : public TaskTest {
 protected:
  FrozenFrontTest() {
    at::set_num_threads(1);
    input_.train.learning_rate = 2e-2;
    input_.train.local_steps = 6;
    input_.train.zo.zo_eps = 1e-2;
    input_.train.zo.distribution = "rademacher";
    input_.train.zo.num_perturbations = 2;
    TrainLast(/*layer=*/1);
  }

  // An adapter on that layer of the tiny model, with something learnt.
  void TrainLast(int64_t layer) {
    peft::AdapterConfig config;
    config.layers_to_transform = {layer};
    Adapt(model::TinyConfig(), config);
  }
  void Adapt(const model::ModelSpec& spec, peft::AdapterConfig config) {
    if (config.target_modules.empty()) config.target_modules = {"q_proj", "down_proj"};
    config_ = std::move(config);
    auto adapter = peft::MakeInitialAdapter(spec, config_, model::RandomWeights(spec, 1), 5);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    initial_ = *std::move(adapter);
    WriteLearntAdapter();
  }

  // Sentences for a BERT of three layers whose last one and head are trained.
  void UseBert() {
    const model::ModelSpec spec = SpecOf(kThreeLayerBert);
    std::filesystem::remove_all(folder_ / "base");
    std::filesystem::create_directory(folder_ / "base");
    folder_.Write("base/config.json", kThreeLayerBert);
    ASSERT_TRUE(WriteSafetensors(folder_ / "base/model.safetensors", model::RandomWeights(spec, 4, 0.15F)).ok());
    folder_.Write("base/tokenizer.json", TokenizerJson());
    folder_.Write(
        "base/tokenizer_config.json",
        R"({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"})");
    peft::AdapterConfig config;
    config.target_modules = {"query", "value"};
    config.layers_to_transform = {2};
    config.modules_to_save = {"classifier"};
    Adapt(spec, config);
    PhiloxStream random(8);
    std::string rows = "sentence\tlabel\n";
    for (int i = 0; i < 40; ++i) {
      const bool good = random.NextBelow(2) == 0;
      rows += std::string("The film was ") + (random.NextBelow(2) == 0 ? "" : "very very ") + (good ? "good" : "bad") +
              ".\t" + (good ? "positive" : "negative") + "\n";
    }
    input_.data_path = folder_.Write("reviews.tsv", rows);
    input_.train.batch_size = 5;
    input_.train.sequence_length = 12;
  }

  std::string Bytes(const LocalTask& task, TaskResources& resources) const {
    const auto output = task.Run(input_, resources, {});
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? SerializeSafetensors(output->update) : "";
  }
  // The task's result, cold, warm, with room for a few examples only, and with what another run has left behind.
  void ExpectNothingThatIsKeptToCount(const LocalTask& task) {
    input_.train.zo.kept_front_mb = 64;
    TaskResources cold, other;
    const std::string expected = Bytes(task, cold);
    ASSERT_FALSE(expected.empty());
    EXPECT_GT(cold.fronts().bytes(), 0U);
    const uint64_t kept = cold.fronts().bytes(), found = cold.fronts().found();
    EXPECT_EQ(Bytes(task, cold), expected);
    EXPECT_EQ(cold.fronts().bytes(), kept) << "all of it was there";
    EXPECT_GT(cold.fronts().found(), found);
    input_.seed ^= 1;
    EXPECT_NE(Bytes(task, other), expected);
    input_.seed ^= 1;
    EXPECT_EQ(Bytes(task, other), expected);
  }

  // A task that computes gradients; with `forget` all that was kept is lost after every step.
  struct Curve {
    std::vector<double> losses;
    std::string update;
  };
  Curve Trained(TaskResources& resources, bool forget = false) const {
    Curve curve;
    const auto output = MakeLoraSft()->Run(input_, resources, [&](uint32_t, uint32_t, double loss) {
      curve.losses.push_back(loss);
      if (forget) resources.fronts().Shrink(0);
      return true;
    });
    EXPECT_TRUE(output.ok()) << output.status();
    if (output.ok()) curve.update = SerializeSafetensors(output->update);
    return curve;
  }
  void ExpectTheSameCurveWhateverIsKept() {
    input_.train.zo.kept_front_mb = 64;
    TaskResources cold, forgetful, none;
    const Curve kept = Trained(cold);
    ASSERT_EQ(kept.losses.size(), input_.train.local_steps);
    EXPECT_GT(cold.fronts().bytes(), 0U);
    const uint64_t found = cold.fronts().found();
    const Curve warm = Trained(cold), computed_anew = Trained(forgetful, /*forget=*/true);
    EXPECT_GT(cold.fronts().found(), found);
    EXPECT_EQ(forgetful.fronts().bytes(), 0U);
    for (const Curve* other : {&warm, &computed_anew}) {
      EXPECT_EQ(other->losses, kept.losses);
      EXPECT_TRUE(other->update == kept.update);
    }
    // Whole passes of whole batches are the same but for rounding.
    input_.train.zo.kept_front_mb = 0;
    const Curve whole = Trained(none);
    EXPECT_EQ(none.fronts().bytes(), 0U);
    ASSERT_EQ(whole.losses.size(), kept.losses.size());
    EXPECT_NEAR(whole.losses[0], kept.losses[0], 1e-5 * whole.losses[0]);
    for (size_t i = 0; i < kept.losses.size(); ++i) {
      EXPECT_NEAR(whole.losses[i], kept.losses[i], 1e-3 * whole.losses[i]) << i;
    }
  }

  std::shared_ptr<const model::BaseWeights> Base(const model::ModelSpec& spec) {
    auto base = std::make_shared<model::BaseWeights>();
    base->spec = spec;
    for (const auto& [name, tensor] : model::RandomWeights(spec, 4, 0.15F)) {
      base->tensors.emplace(name, peft::ToTorchTensor(tensor));
    }
    return base;
  }
  // A loss behind the front, after the trained tensors have moved, and that of a whole forward pass: to the bit, but
  // for the rounding of a last layer that computes fewer rows; with the fronts of single rows but for rounding too.
  void ExpectTheLossOfAWholePass(const model::ModelSpec& spec, const HeadBatch& batch, int64_t layers) {
    const torch::NoGradGuard no_gradients;
    model::Transformer network(Base(spec));
    network->eval();
    auto tuning = peft::Tuning::Inject(network, config_, initial_);
    ASSERT_TRUE(tuning.ok()) << tuning.status();
    std::set<std::string> trained;
    for (const peft::TunedParameter& one : tuning->parameters()) trained.insert(one.key);
    FrontMemory memory;
    input_.train.zo.kept_front_mb = 0;
    const FrozenFront front = FrozenFront::Make(network, *tuning, initial_, trained, input_, {}, memory);
    input_.train.zo.kept_front_mb = 1;
    const FrozenFront by_row = FrozenFront::Make(network, *tuning, initial_, trained, input_, {}, memory);
    EXPECT_EQ(front.layers(), layers);
    const FrozenFront::Batch taken = front.Take(batch), rows = by_row.Take(batch), again = by_row.Take(batch);
    EXPECT_EQ(memory.found(), batch.rows);
    EXPECT_TRUE(torch::equal(rows.stream, again.stream));
    // What would be computed if something at the embeddings were trained as well.
    const FrozenFront nothing = FrozenFront::Make(network, *tuning, initial_, {"?"}, input_, {}, memory);
    EXPECT_EQ(nothing.layers(), 0);
    const FrozenFront::Batch whole_way = nothing.Take(batch);
    for (int step = 0; step < 3; ++step) {
      for (const peft::TunedParameter& one : tuning->parameters()) torch::Tensor(one.tensor).add_(0.01 * step);
      const auto whole = network->Loss(batch.input, batch.targets).item<float>();
      EXPECT_EQ(front.Loss(taken).item<float>(), nothing.Loss(whole_way).item<float>());
      EXPECT_NEAR(front.Loss(taken).item<float>(), whole, (spec.causal ? 0 : 1e-6F) * std::abs(whole));
      EXPECT_NEAR(by_row.Loss(rows).item<float>(), whole, 1e-5F * std::abs(whole));
    }
  }
};

TEST_F(FrozenFrontTest, ALossBehindItHasTheBitsOfAWholeForwardPass) {
  HeadBatch windows;
  windows.rows = 3;
  windows.input.ids = torch::randint(320, {3, 16}, torch::kLong);
  windows.targets = torch::randint(320, {3, 16}, torch::kLong);
  ExpectTheLossOfAWholePass(model::TinyConfig(), windows, 1);

  HeadBatch packed = windows;  // two texts in each row, the last row partly padding
  packed.input.segments = (torch::arange(16) / 8).to(torch::kLong).expand({3, 16}).contiguous() + 1;
  packed.input.positions = torch::arange(16).remainder(8).expand({3, 16}).contiguous();
  packed.input.mask = torch::ones({3, 16}, torch::kLong);
  packed.input.mask[2].slice(0, 8).fill_(0);
  packed.targets[2].slice(0, 8).fill_(-100);
  ExpectTheLossOfAWholePass(model::TinyConfig(), packed, 1);

  UseBert();
  HeadBatch padded;
  padded.rows = 4;
  padded.input.ids = torch::randint(1, 20, {4, 9}, torch::kLong);
  padded.input.types = torch::randint(2, {4, 9}, torch::kLong);
  padded.input.mask = torch::arange(9).unsqueeze(0).lt(torch::tensor({9, 4, 7, 1}).unsqueeze(1)).to(torch::kLong);
  padded.targets = torch::randint(2, {4}, torch::kLong);
  ExpectTheLossOfAWholePass(SpecOf(kThreeLayerBert), padded, 2);

  peft::AdapterConfig config;
  config.target_modules = {"query"};
  config.layers_to_transform = {1, 2};
  Adapt(SpecOf(kVit), config);
  HeadBatch images;
  images.rows = 2;
  images.input.pixels = torch::randn({2, 3, 8, 8});
  images.targets = torch::randint(2, {2}, torch::kLong);
  ExpectTheLossOfAWholePass(SpecOf(kVit), images, 1);
}

TEST_F(FrozenFrontTest, WhatIsKeptDoesNotChangeABitOfATask) {
  for (const char* estimator : {"spsa", "spsa_one_sided", "forward_gradient"}) {
    input_.train.zo.estimator = estimator;
    ExpectNothingThatIsKeptToCount(*MakeZoSft());
  }
  input_.train.zo.estimator = "";
  input_.train.gradient_accumulation_steps = 2;
  ExpectNothingThatIsKeptToCount(*MakeZoSft());
  UseBert();
  ExpectNothingThatIsKeptToCount(*MakeZoSft());
  input_.train.zo.clip_projected_grad = 1000;
  input_.train.gradient_accumulation_steps = 1;
  input_.train.seeds =
      SharedSeedSettings{.seed = 7, .first_ref = 0, .pool_size = 64, .resolution_bits = 30, .scalars = ""};
  ExpectNothingThatIsKeptToCount(*MakeZoLedger());
}

TEST_F(FrozenFrontTest, RoomForSomeExamplesOnlyDoesNotChangeABitEither) {
  input_.train.local_steps = 40;
  input_.train.batch_size = 16;  // 640 examples of 16 x 32 floats, of which 1 MiB holds some 440
  input_.train.zo.kept_front_mb = 64;
  TaskResources large, small;
  const std::string expected = Bytes(*MakeZoSft(), large);
  EXPECT_GT(large.fronts().bytes(), uint64_t{1} << 20);
  input_.train.zo.kept_front_mb = 1;
  EXPECT_EQ(Bytes(*MakeZoSft(), small), expected);
  EXPECT_EQ(Bytes(*MakeZoSft(), small), expected);
  EXPECT_GT(small.fronts().found(), 0U);
  EXPECT_LE(small.fronts().bytes(), uint64_t{1} << 20);
  EXPECT_EQ(Bytes(*MakeZoSft(), large), expected);
  EXPECT_LE(large.fronts().bytes(), uint64_t{1} << 20) << "the plan allows less now";
}

// What stands below the cut is not trained, but another round brings other values of it.
TEST_F(FrozenFrontTest, OtherFrozenFactorsBelowAreAnotherFront) {
  peft::AdapterConfig config;
  Adapt(model::TinyConfig(), config);
  input_.train.rules.frozen = {"layers.0"};
  input_.train.zo.kept_front_mb = 16;
  const std::string first = Bytes(*MakeZoSft(), *resources_);
  EXPECT_GT(resources_->fronts().bytes(), 0U);
  for (auto& [name, tensor] : initial_) {
    if (!name.ends_with("layers.0.self_attn.q_proj.lora_B.weight")) continue;
    std::vector<float> values(tensor.values<float>().begin(), tensor.values<float>().end());
    for (float& value : values) value += 0.5F;
    tensor = Tensor::FromFloats(tensor.shape(), values);
  }
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  TaskResources fresh;
  const std::string expected = Bytes(*MakeZoSft(), fresh);
  EXPECT_NE(expected, first);
  const uint64_t found = resources_->fronts().found();
  EXPECT_EQ(Bytes(*MakeZoSft(), *resources_), expected);
  // The examples come in the same order and each at most once, so that none of the other front's was taken.
  EXPECT_EQ(resources_->fronts().found(), found);
}

TEST_F(FrozenFrontTest, NothingIsKeptWhereAllLayersAreTrainedOrTheModelIsAnother) {
  input_.train.zo.kept_front_mb = 16;
  EXPECT_FALSE(Bytes(*MakeZoSft(), *resources_).empty());
  EXPECT_GT(resources_->fronts().bytes(), 0U);
  TrainLast(/*layer=*/0);
  TaskResources none;
  EXPECT_FALSE(Bytes(*MakeZoSft(), none).empty());
  EXPECT_EQ(none.fronts().bytes(), 0U);
  UseBert();
  ASSERT_TRUE(resources_->GetBase(input_.base_model_dir).ok());
  EXPECT_EQ(resources_->fronts().bytes(), 0U) << "of a model that is not there any more";
}

TEST_F(FrozenFrontTest, GradientsHaveTheSameCurveToTheBitWhateverIsKept) {
  input_.train.learning_rate = 1e-2;
  ExpectTheSameCurveWhateverIsKept();
  input_.train.gradient_accumulation_steps = 2;
  ExpectTheSameCurveWhateverIsKept();
  UseBert();
  ExpectTheSameCurveWhateverIsKept();
  input_.train.gradient_checkpointing = true;
  ExpectTheSameCurveWhateverIsKept();
  // What FedAdapter's devices train: small networks in the top layer, and the head.
  peft::AdapterConfig config;
  config.peft_type = "BOTTLENECK";
  config.placement = "pfeiffer";
  config.bottleneck_size = 8;
  config.layers_to_transform = {2};
  config.modules_to_save = {"classifier"};
  Adapt(SpecOf(kThreeLayerBert), config);
  ExpectTheSameCurveWhateverIsKept();
}

TEST_F(FrozenFrontTest, NothingIsKeptAboveADropoutThatDraws) {
  input_.train.learning_rate = 1e-2;
  // Where all that draws is trained, the layers below are kept: the same masks whatever is kept.
  peft::AdapterConfig config;
  config.lora_dropout = 0.3;
  config.layers_to_transform = {1};
  Adapt(model::TinyConfig(), config);
  input_.train.zo.kept_front_mb = 16;
  TaskResources above, forgetful;
  const Curve kept = Trained(above);
  EXPECT_GT(above.fronts().bytes(), 0U);
  EXPECT_EQ(Trained(forgetful, /*forget=*/true).losses, kept.losses);
  // A frozen adapter below that draws is no frozen front.
  config.layers_to_transform.clear();
  input_.train.rules.frozen = {"layers.0"};
  for (const double dropout : {0.3, 0.0}) {
    config.lora_dropout = dropout;
    Adapt(model::TinyConfig(), config);
    TaskResources resources, none;
    input_.train.zo.kept_front_mb = 16;
    const Curve with = Trained(resources);
    EXPECT_EQ(resources.fronts().bytes() > 0, dropout == 0);
    if (dropout == 0) continue;
    input_.train.zo.kept_front_mb = 0;
    EXPECT_EQ(Trained(none).losses, with.losses) << "whole passes, whatever the setting";
  }
}

TEST_F(FrozenFrontTest, ATaskThatMayKeepNothingLetsGoWhatAnEarlierOneKept) {
  input_.train.zo.kept_front_mb = 16;
  Trained(*resources_);
  EXPECT_GT(resources_->fronts().bytes(), 0U);
  input_.train.zo.kept_front_mb = 0;
  Trained(*resources_);
  EXPECT_EQ(resources_->fronts().bytes(), 0U);
}

TEST_F(FrozenFrontTest, TheMemoryForItIsPartOfTheEstimate) {
  const auto options = MakeTrainOptions(input_, model::TinyConfig());
  ASSERT_TRUE(options.ok());
  const uint64_t without = EstimateForwardBytes(model::TinyConfig(), input_.train, *options);
  const uint64_t training = EstimateTrainingBytes(model::TinyConfig(), input_.train, *options, initial_);
  input_.train.zo.kept_front_mb = 3;
  EXPECT_EQ(EstimateTrainingBytes(model::TinyConfig(), input_.train, *options, initial_),
            training + (uint64_t{3} << 20));
  EXPECT_EQ(EstimateForwardBytes(model::TinyConfig(), input_.train, *options), without + (uint64_t{3} << 20));
  input_.memory_limit_bytes = without + (uint64_t{2} << 20);
  EXPECT_EQ(MakeZoSft()->Run(input_, *resources_, {}).status().code(), Code::kResourceExhausted);
  input_.memory_limit_bytes = 0;
  const auto output = MakeZoSft()->Run(input_, *resources_, {});
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->stats.estimated_memory_bytes, without + (uint64_t{3} << 20) + TotalBytes(initial_));
}

TEST(FrontMemory, LetsTheFrontGoThatWasNotUsedForTheLongestTime) {
  FrontMemory memory;
  const torch::Tensor stream = torch::zeros({4, 256});  // 4 KiB and what an entry takes
  const auto key = [](int i) { return Sha256(std::to_string(i)); };
  constexpr uint64_t kLimit = 3 * 5000;
  memory.Keep("a", key(1), stream, kLimit);
  memory.Keep("b", key(1), stream, kLimit);
  memory.Keep("b", key(1), stream, kLimit);
  memory.Keep("b", key(2), stream, kLimit);
  EXPECT_TRUE(memory.Find("a", key(1)).defined());
  EXPECT_FALSE(memory.Find("a", key(2)).defined());
  EXPECT_EQ(memory.found(), 1U);
  memory.Keep("a", key(2), stream, kLimit);  // b goes
  EXPECT_FALSE(memory.Find("b", key(1)).defined());
  EXPECT_TRUE(memory.Find("a", key(1)).defined());
  memory.Keep("a", key(3), stream, kLimit);
  const uint64_t full = memory.bytes();
  memory.Keep("a", key(4), stream, kLimit);  // its own examples stay
  EXPECT_EQ(memory.bytes(), full);
  EXPECT_TRUE(memory.Find("a", key(1)).defined());
  EXPECT_FALSE(memory.Find("a", key(4)).defined());
  memory.Keep("c", key(1), stream, 100);
  EXPECT_FALSE(memory.Find("c", key(1)).defined());
  memory.Shrink(full);
  EXPECT_EQ(memory.bytes(), full);
  memory.Shrink(0);
  EXPECT_EQ(memory.bytes(), 0U);
  EXPECT_FALSE(memory.Find("a", key(1)).defined());
}

}  // namespace
}  // namespace heddle::client
