// What methods add to training, held against steps computed by hand from plain tasks: with SGD a step is the gradient
// times the rate, so the difference of two plain tasks is a gradient.
#include "client/worker/ruled_training.h"

#include <gtest/gtest.h>

#include <cmath>

#include "aggregation/device_rules.h"
#include "common/safetensors.h"
#include "common/sparse_delta.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

constexpr double kRate = 0.05;

class RuledTrainingTest : public TaskTest {
 protected:
  RuledTrainingTest() {
    input_.train.optimizer = "SGD";
    input_.train.learning_rate = kRate;
    input_.train.lr_scheduler_type = "constant";
    input_.train.local_steps = 1;
    input_.personal_path = folder_ / "personal.safetensors";
  }

  TaskOutput Must() {
    auto output = (*FindLocalTask("sft"))->Run(input_, *resources_, {});
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? *std::move(output) : TaskOutput{};
  }

  // Tensors like the initial adapter's, with values that are easy to tell apart, under `prefix`.
  StateDict Like(const std::string& prefix, float scale) const {
    StateDict out;
    for (const auto& [key, tensor] : initial_) {
      std::vector<float> values(static_cast<size_t>(tensor.numel()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = scale * static_cast<float>(1 + i % 7);
      out.emplace(prefix + key, Tensor::FromFloats(tensor.shape(), values));
    }
    return out;
  }
  void GiveModel(StateDict extra) {
    extra.insert(initial_.begin(), initial_.end());
    ASSERT_TRUE(WriteSafetensors(folder_ / "adapter" / "adapter_model.safetensors", extra).ok());
  }
  void GivePersonal(const StateDict& tensors) { ASSERT_TRUE(WriteSafetensors(input_.personal_path, tensors).ok()); }

  TempDir& folder() { return folder_; }
};

// For each element: check(key, i, values of the tensors of that key).
template <typename Check>
void ForEach(const StateDict& keys, const Check& check) {
  for (const auto& [key, tensor] : keys) {
    for (size_t i = 0; i < static_cast<size_t>(tensor.numel()); ++i) check(key, i);
  }
}
double At(const StateDict& tensors, const std::string& key, size_t i) {
  const auto found = tensors.find(key);
  EXPECT_NE(found, tensors.end()) << key;
  return found == tensors.end() ? 0 : double{found->second.values<float>()[i]};
}

TEST_F(RuledTrainingTest, WithoutRulesTheTwoNamesOfTheTaskDoTheSame) {
  const TaskOutput one = Must();
  const auto other = Task()->Run(input_, *resources_, {});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_TRUE(SerializeSafetensors(one.update) == SerializeSafetensors(other->update));
  EXPECT_TRUE(one.personal.empty());
}

TEST_F(RuledTrainingTest, FedProxPullsEachStepTowardsTheStart) {
  const TaskOutput first = Must();
  input_.train.local_steps = 2;
  const TaskOutput plain = Must();
  input_.train.rules.proximal_mu = 3;
  const TaskOutput pulled = Must();
  double moved = 0;
  ForEach(initial_, [&](const std::string& key, size_t i) {
    const double expected = At(plain.update, key, i) - kRate * 3 * At(first.update, key, i);
    EXPECT_NEAR(At(pulled.update, key, i), expected, 2e-6 * (1 + std::abs(expected))) << key << " " << i;
    moved += std::abs(expected - At(plain.update, key, i));
  });
  EXPECT_GT(moved, 1e-4) << "the term was large enough to be seen";
}

TEST_F(RuledTrainingTest, ScaffoldCorrectsBySharedAndOwnControlVariatesAndLearnsItsOwnAnew) {
  const TaskOutput plain = Must();
  GiveModel(Like("heddle.control.", 0.01F));
  GivePersonal(Like("heddle.control.", -0.02F));
  input_.train.rules.correction = "scaffold";
  const TaskOutput output = Must();
  EXPECT_EQ(output.update.size(), 2 * initial_.size());
  const StateDict shared = Like("", 0.01F), own = Like("", -0.02F);
  ForEach(initial_, [&](const std::string& key, size_t i) {
    const double gradient = -At(plain.update, key, i) / kRate;
    const double c = At(shared, key, i), c_i = At(own, key, i);
    EXPECT_NEAR(At(output.update, key, i), -kRate * (gradient + c - c_i), 1e-6) << key << " " << i;
    EXPECT_NEAR(At(output.personal, "heddle.control." + key, i), gradient, 1e-4) << "option II after one step";
    EXPECT_NEAR(At(output.update, "heddle.control." + key, i), gradient - c_i, 1e-4);
  });
}

TEST_F(RuledTrainingTest, ScaffoldsNewControlVariateIsTheMeanGradientOverTheSteps) {
  input_.train.rules.correction = "scaffold";
  input_.train.local_steps = 3;
  input_.train.lr_scheduler_type = "linear";  // the rates differ: their sum counts
  const TaskOutput output = Must();
  double rates = 0;
  for (int step = 0; step < 3; ++step) rates += kRate * (3 - step) / 3.0;
  ForEach(initial_, [&](const std::string& key, size_t i) {
    EXPECT_NEAR(At(output.personal, "heddle.control." + key, i), -At(output.update, key, i) / rates, 1e-4) << key;
  });
}

// SLoRA's first stage: what full tuning does to the weights, at the places of the mask only.
TEST_F(RuledTrainingTest, SparseValuesMoveAsFullTuningMovesTheWeightsAtTheirPlaces) {
  peft::AdapterConfig whole;
  whole.peft_type = "FULL";
  const auto spec = peft::AdapterSpec(model::TinyConfig(), whole);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const StateDict base = model::RandomWeights(model::TinyConfig(), 1);
  StateDict start;
  for (const auto& [key, shape] : *spec)
    start.emplace(key, base.at(key.substr(std::string("base_model.model.").size())));
  ASSERT_TRUE(peft::WriteAdapter(folder() / "whole", whole, start).ok());
  const auto adapter_dir = input_.adapter_dir;
  input_.adapter_dir = folder() / "whole";
  const TaskOutput full = Must();
  input_.adapter_dir = adapter_dir;

  const std::string path = "model.layers.1.mlp.down_proj", other = "model.layers.0.self_attn.q_proj";
  StateDict sparse = {{std::string(kDenseSeedName), DenseSeedTensor(9)}};
  for (const std::string& module : {path, other}) {
    sparse.emplace(std::string(kDensePrefix) + module, Tensor::FromFloats({37}, std::vector<float>(37)));
  }
  GiveModel(sparse);
  input_.train.rules.frozen = {"lora_A", "lora_B"};
  const TaskOutput output = Must();
  EXPECT_EQ(output.update.size(), 2U) << "the factors stay as they are";
  const auto deltas =
      FindSparseDeltas(sparse, [&](std::string_view module) -> std::optional<std::pair<int64_t, int64_t>> {
        for (const model::LinearSpec& linear : model::TinyConfig().LinearModules()) {
          if (linear.path == module) return std::pair(linear.out, linear.in);
        }
        return std::nullopt;
      });
  ASSERT_TRUE(deltas.ok()) << deltas.status();
  double moved = 0;
  for (const SparseDelta& delta : *deltas) {
    for (size_t i = 0; i < delta.places.size(); ++i) {
      const double value = At(output.update, std::string(kDensePrefix) + delta.path, i);
      EXPECT_NEAR(value, At(full.update, "base_model.model." + delta.path + ".weight", delta.places[i]), 2e-7);
      moved += std::abs(value);
    }
  }
  EXPECT_GT(moved, 1e-4);
  // And what is frozen stays: the second stage.
  input_.train.rules.frozen = {"heddle.dense"};
  const TaskOutput second = Must();
  for (const auto& [key, tensor] : second.update) EXPECT_FALSE(key.starts_with("heddle.")) << key;
}

TEST_F(RuledTrainingTest, ScaffoldIsRefusedWithAnOptimizerThatIsNoPlainDescent) {
  input_.train.rules.correction = "scaffold";
  input_.train.optimizer = "AdamW";
  const auto output = (*FindLocalTask("sft"))->Run(input_, *resources_, {});
  EXPECT_EQ(output.status().code(), Code::kInvalidArgument) << output.status();
}

TEST_F(RuledTrainingTest, FedDynKeepsTheSumOfItsPulls) {
  const TaskOutput plain = Must();
  GivePersonal(Like("heddle.feddyn.", 0.03F));
  input_.train.rules.correction = "feddyn";
  input_.train.rules.feddyn_alpha = 0.5;
  const TaskOutput output = Must();
  const StateDict own = Like("", 0.03F);
  ForEach(initial_, [&](const std::string& key, size_t i) {
    const double gradient = -At(plain.update, key, i) / kRate, h = At(own, key, i);
    const double moved = -kRate * (gradient - h);
    EXPECT_NEAR(At(output.update, key, i), moved, 1e-6) << key;
    EXPECT_NEAR(At(output.personal, "heddle.feddyn." + key, i), h - 0.5 * moved, 1e-6) << key;
  });
}

TEST_F(RuledTrainingTest, FrozenTensorsStayAndDoNotTravel) {
  input_.train.rules.frozen = {"lora_A"};
  input_.train.local_steps = 3;
  const TaskOutput output = Must();
  EXPECT_EQ(output.update.size(), initial_.size() / 2);
  for (const auto& [key, tensor] : output.update) EXPECT_TRUE(key.ends_with("lora_B.weight")) << key;
  input_.train.rules.frozen = {"lora_A", "lora_B"};
  EXPECT_EQ((*FindLocalTask("sft"))->Run(input_, *resources_, {}).status().code(), Code::kInvalidArgument);
}

TEST_F(RuledTrainingTest, KeptTensorsStayOnTheDeviceAndAreWhereTheNextTaskStarts) {
  input_.train.rules.kept = {"lora_B"};
  input_.train.local_steps = 2;
  const TaskOutput first = Must();
  EXPECT_EQ(first.update.size(), initial_.size() / 2);
  ASSERT_EQ(first.personal.size(), initial_.size() / 2);
  for (const auto& [key, tensor] : first.personal) EXPECT_TRUE(key.ends_with("lora_B.weight")) << key;
  GivePersonal(first.personal);
  const TaskOutput second = Must();
  // The same start given as the model's own: the same bytes.
  StateDict model = initial_;
  for (const auto& [key, tensor] : first.personal) model.insert_or_assign(key, tensor);
  ASSERT_TRUE(WriteSafetensors(folder_ / "adapter" / "adapter_model.safetensors", model).ok());
  std::filesystem::remove(input_.personal_path);
  const TaskOutput same = Must();
  EXPECT_TRUE(SerializeSafetensors(second.update) == SerializeSafetensors(same.update));
  EXPECT_TRUE(SerializeSafetensors(second.personal) == SerializeSafetensors(same.personal));
}

// HetLoRA. A start whose B is not zero, so that the tail has something to lose.
// A device keeps a rank whose tail does not shrink, and sends all of it: control variates make it grow here.
TEST_F(RuledTrainingTest, TheTailsPenaltyIsTheGradientOfTheProductOfItsNorms) {
  constexpr double kLambda = 0.1;
  const int64_t rank = config_.r, begin = rank / 2;
  initial_ = Like("", 0.02F);
  GiveModel(Like("heddle.control.", -0.5F));
  GivePersonal(Like("heddle.control.", 0));
  input_.train.rules.correction = "scaffold";
  input_.train.rules.prune_gamma = 0.5;
  input_.train.rules.prune_lambda = 0;
  const TaskOutput plain = Must();
  input_.train.rules.prune_lambda = kLambda;
  const TaskOutput penalised = Must();
  ASSERT_EQ(At(plain.personal, "heddle.rank", 0), static_cast<double>(rank)) << "a tail that grew is kept";
  ASSERT_EQ(At(penalised.personal, "heddle.rank", 0), static_cast<double>(rank)) << "a tail that grew is kept";
  double seen_a = 0, seen_b = 0;
  for (const auto& [key, a] : initial_) {
    if (!key.ends_with("lora_A.weight")) continue;
    std::string key_b = key;
    key_b.replace(key_b.rfind("lora_A"), 6, "lora_B");
    const Tensor& b = initial_.at(key_b);
    ASSERT_EQ(penalised.update.at(key).spec(), a.spec());
    ASSERT_EQ(penalised.update.at(key_b).spec(), b.spec());
    const auto in_tail_of_a = [&](size_t i) { return static_cast<int64_t>(i) / a.shape()[1] >= begin; };
    const auto in_tail_of_b = [&](size_t i) { return static_cast<int64_t>(i) % rank >= begin; };
    double a_squares = 0, b_squares = 0;
    for (size_t i = 0; i < static_cast<size_t>(a.numel()); ++i) {
      if (in_tail_of_a(i)) a_squares += std::pow(At(initial_, key, i), 2);
    }
    for (size_t i = 0; i < static_cast<size_t>(b.numel()); ++i) {
      if (in_tail_of_b(i)) b_squares += std::pow(At(initial_, key_b, i), 2);
    }
    for (size_t i = 0; i < static_cast<size_t>(a.numel()); ++i) {
      const double term = in_tail_of_a(i) ? kLambda * std::sqrt(b_squares / a_squares) * At(initial_, key, i) : 0;
      EXPECT_NEAR(At(penalised.update, key, i), At(plain.update, key, i) - kRate * term, 1e-6) << key << " " << i;
      seen_a += kRate * std::abs(term);
    }
    for (size_t i = 0; i < static_cast<size_t>(b.numel()); ++i) {
      const double term = in_tail_of_b(i) ? kLambda * std::sqrt(a_squares / b_squares) * At(initial_, key_b, i) : 0;
      EXPECT_NEAR(At(penalised.update, key_b, i), At(plain.update, key_b, i) - kRate * term, 1e-6) << key_b << " " << i;
      seen_b += kRate * std::abs(term);
    }
  }
  EXPECT_GT(seen_a, 1e-3);
  EXPECT_GT(seen_b, 1e-3);
}

TEST_F(RuledTrainingTest, ADeviceWhoseTailShrinksGivesItUpAndKeepsTheSmallerRank) {
  initial_ = Like("", 0.02F);
  GiveModel({});
  input_.train.rules.prune_gamma = 0.5;
  input_.train.rules.prune_lambda = 5;  // far beyond the gradient
  input_.train.local_steps = 2;
  const TaskOutput first = Must();
  const int64_t half = config_.r / 2;
  EXPECT_EQ(At(first.personal, "heddle.rank", 0), static_cast<double>(half));
  for (const auto& [key, tensor] : first.update) {
    EXPECT_EQ(tensor.shape()[key.ends_with("lora_A.weight") ? 0 : 1], half) << key;
  }
  GivePersonal(first.personal);
  input_.train.rules.prune_lambda = 0;
  const TaskOutput second = Must();
  EXPECT_LE(At(second.personal, "heddle.rank", 0), static_cast<double>(half));
  // The smaller adapter trains as one of that rank with the same scaling does.
  peft::AdapterConfig small = config_;
  small.r = half;
  small.lora_alpha = config_.lora_alpha / 2;
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", small, aggregation::DeviceModel(initial_, half)).ok());
  std::filesystem::remove(input_.personal_path);
  input_.train.rules.prune_gamma = 0;
  const TaskOutput alone = Must();
  for (const auto& [key, tensor] : second.update) {
    const Tensor same =
        aggregation::CutToRank(key, alone.update.at(key), static_cast<int64_t>(At(second.personal, "heddle.rank", 0)));
    ASSERT_EQ(tensor.spec(), same.spec()) << key;
    for (size_t i = 0; i < static_cast<size_t>(tensor.numel()); ++i) {
      EXPECT_EQ(tensor.values<float>()[i], same.values<float>()[i]) << key;
    }
  }
}

TEST_F(RuledTrainingTest, WhatIsKeptAndDamagedIsBegunAnew) {
  input_.train.rules.kept = {"lora_B"};
  const TaskOutput first = Must();
  folder().Write("personal.safetensors", "no tensors");
  EXPECT_TRUE(SerializeSafetensors(Must().update) == SerializeSafetensors(first.update));
  StateDict other = Like("", 1);
  for (auto& [key, tensor] : other) tensor = Tensor::FromFloats({1}, std::array<float, 1>{5});
  GivePersonal(other);
  EXPECT_TRUE(SerializeSafetensors(Must().update) == SerializeSafetensors(first.update))
      << "other shapes are passed over";
}

}  // namespace
}  // namespace heddle::client
