// zo_sft: what it returns, that it is repeatable to the bit, that it learns, what it skips and what it refuses.
#include "client/worker/zo_sft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "aggregation/layer_groups.h"
#include "client/worker/train_options.h"
#include "client/worker/trained_tensors.h"
#include "common/float_convert.h"
#include "common/safetensors.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

using ::testing::HasSubstr;

class ZoSftTest : public TaskTest {
 protected:
  ZoSftTest() {
    input_.train.learning_rate = 2e-2;
    input_.train.zo.zo_eps = 1e-2;
    input_.train.zo.distribution = "rademacher";
  }
  Result<TaskOutput> RunZo() { return MakeZoSft()->Run(input_, *resources_, {}); }
  std::string Bytes() {
    const auto output = RunZo();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? SerializeSafetensors(output->update) : "";
  }
};

TEST_F(ZoSftTest, SendsTheUpdateOfTheAdapterAndCountsItsForwardPasses) {
  struct Case {
    const char* estimator;
    uint32_t perturbations;
    uint64_t passes;
  };
  for (const Case& one :
       {Case{"spsa", 1, 8}, Case{"spsa", 3, 24}, Case{"spsa_one_sided", 3, 16}, Case{"forward_gradient", 2, 8}}) {
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.num_perturbations = one.perturbations;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << one.estimator << output.status();
    EXPECT_EQ(SpecOf(output->update), SpecOf(initial_));
    EXPECT_EQ(output->stats.steps, 4U);
    EXPECT_EQ(output->stats.num_examples, 8U);
    EXPECT_EQ(output->stats.num_tokens, 128U);
    EXPECT_EQ(output->stats.forward_passes, one.passes) << one.estimator;
    EXPECT_EQ(output->stats.skipped_directions, 0U);
    EXPECT_NEAR(output->stats.first_loss, std::log(256.0), 1.5);
    bool moved = false;
    for (const auto& [name, tensor] : output->update) {
      for (const float x : tensor.values<float>()) {
        ASSERT_TRUE(std::isfinite(x)) << name;
        moved = moved || x != 0;
      }
    }
    EXPECT_TRUE(moved);
  }
}

TEST_F(ZoSftTest, SameSeedGivesTheSameBytesAndAnotherSeedDoesNot) {
  for (const char* estimator : {"spsa", "forward_gradient"}) {
    input_.seed = 11;
    input_.train.zo.estimator = estimator;
    const std::string first = Bytes();
    EXPECT_EQ(Bytes(), first);
    input_.seed = 12;
    EXPECT_NE(Bytes(), first);
  }
}

TEST_F(ZoSftTest, DropoutIsOffSoThatBothLossesAreOfOneFunction) {
  const std::string without = Bytes();
  peft::AdapterConfig config = config_;
  config.lora_dropout = 0.5;
  WriteAdapter(config);
  EXPECT_EQ(Bytes(), without);
}

// The start on its grid, by the rule of docs/formats.md: the nearest multiples of u, where 2^24 u is the smallest power
// of two that is at least 2, 4 times the largest value, and 32 times the size of perturbations.
std::vector<float> OnItsGrid(std::span<const float> start, double epsilon) {
  double reach = std::max(2.0, 32 * epsilon), range = 1;
  for (const float value : start) reach = std::max(reach, 4 * std::abs(static_cast<double>(value)));
  while (range < reach) range *= 2;
  const double unit = range * 0x1p-24;
  std::vector<float> out;
  for (const float value : start) {
    out.push_back(static_cast<float>(std::nearbyint(static_cast<double>(value) / unit) * unit));
  }
  return out;
}

// The update is what putting the start on its grid changes, to the bit, and there was something to change.
void ExpectTheStartOnItsGrid(const StateDict& update, const StateDict& initial, double epsilon, const char* what) {
  for (const auto& [name, tensor] : update) {
    const auto start = initial.at(name).values<float>(), change = tensor.values<float>();
    const std::vector<float> expected = OnItsGrid(start, epsilon);
    bool rounded = false;
    for (size_t i = 0; i < change.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(change[i]), std::bit_cast<uint32_t>(expected[i] - start[i]))
          << what << " " << name << "[" << i << "]";
      rounded = rounded || change[i] != 0;
    }
    EXPECT_TRUE(rounded) << "the start was on the grid, so that rounding it was not seen";
  }
}

// Each value as the nearest of that 16-bit type, or one beside it.
StateDict Narrowed(const StateDict& floats, DType dtype) {
  std::map<float, uint16_t> halves;
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {  // the finite ones from 0
    const auto half = static_cast<uint16_t>(bits);
    halves.emplace(HalfToFloat(half), half);
    if (bits > 0) halves.emplace(-HalfToFloat(half), static_cast<uint16_t>(half | 0x8000U));
  }
  StateDict narrow;
  for (const auto& [name, tensor] : floats) {
    std::span<std::byte> place;
    Tensor made = Tensor::Allocate({dtype, tensor.shape()}, &place);
    size_t at = 0;
    for (const float value : tensor.values<float>()) {
      const uint16_t bits = dtype == DType::kBF16 ? FloatToBfloat16(value) : halves.lower_bound(value)->second;
      std::memcpy(place.data() + at, &bits, sizeof bits);
      at += sizeof bits;
    }
    narrow.emplace(name, std::move(made));
  }
  return narrow;
}

TEST_F(ZoSftTest, TwoThousandStepsOfSizeZeroLeaveTheBitsOfTheStartOnItsGrid) {
  struct Case {
    const char *estimator, *distribution;
    uint32_t steps, perturbations;
  };
  WriteLearntAdapter();
  input_.train.learning_rate = 0;
  input_.train.batch_size = 1;
  input_.train.sequence_length = 8;
  for (const Case& one : {Case{"spsa", "normal", 2000, 1}, Case{"spsa", "rademacher", 100, 3},
                          Case{"spsa_one_sided", "normal", 100, 2}, Case{"forward_gradient", "normal", 20, 1}}) {
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.distribution = one.distribution;
    input_.train.zo.num_perturbations = one.perturbations;
    input_.train.local_steps = one.steps;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.steps, one.steps);
    ExpectTheStartOnItsGrid(output->update, initial_, input_.train.zo.zo_eps, one.estimator);
  }
}

// What an adapter of 16-bit floats begins with is on the grid but for values near 0, here 1.5 of its units.
TEST_F(ZoSftTest, TwoThousandStepsOfSizeZeroLeaveTheBitsOfASixteenBitStart) {
  input_.train.learning_rate = 0;
  input_.train.batch_size = 1;
  input_.train.sequence_length = 8;
  input_.train.local_steps = 2000;
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    WriteLearntAdapter();
    for (auto& [name, tensor] : initial_) {
      const auto learnt = tensor.values<float>();
      std::vector<float> values(learnt.begin(), learnt.end());
      for (size_t i = 0; i < values.size(); i += 7) values[i] = 3 * 0x1p-24F;
      tensor = Tensor::FromFloats(tensor.shape(), values);
    }
    const StateDict narrow = Narrowed(initial_, dtype);
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, narrow).ok());
    for (auto& [name, tensor] : initial_) {
      tensor = Tensor::FromFloats(tensor.shape(), narrow.at(name).ToFloats().value());
    }
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->stats.steps, 2000U);
    ExpectTheStartOnItsGrid(output->update, initial_, input_.train.zo.zo_eps, DTypeName(dtype).data());
    for (const auto& [name, tensor] : output->update) {
      const auto start = initial_.at(name).values<float>(), change = tensor.values<float>();
      for (size_t i = 0; i < change.size(); ++i) {
        if (std::abs(start[i]) < 0x1p-13F) continue;
        ASSERT_EQ(change[i], 0.0F) << DTypeName(dtype) << " " << name;
      }
    }
  }
}

// A task of two steps whose rate falls from 1 to 1/2 takes the same first step as one of a fixed rate, and half its
// second. With this rate the grid is 2^-23, to which each direction's step is rounded.
TEST_F(ZoSftTest, StepsHaveTheRatesOfTheSchedule) {
  WriteLearntAdapter();
  input_.train.learning_rate = 3.9e-3;
  const auto update = [&](const char* schedule, uint32_t steps) {
    input_.train.lr_scheduler_type = schedule;
    input_.train.local_steps = steps;
    const auto output = RunZo();
    EXPECT_TRUE(output.ok()) << output.status();
    return output->update;
  };
  for (const uint32_t perturbations : {1U, 3U}) {  // in one pass with the restoring, and by the optimizer
    input_.train.zo.num_perturbations = perturbations;
    const StateDict once = update("constant", 1), fixed = update("constant", 2), linear = update("linear", 2);
    float most = 0;
    for (const auto& [name, tensor] : once) {
      const auto first = tensor.values<float>(), both = fixed.at(name).values<float>(),
                 falling = linear.at(name).values<float>();
      for (size_t i = 0; i < first.size(); ++i) {
        const float second = both[i] - first[i];
        ASSERT_NEAR(falling[i] - first[i], second / 2, 0x1p-21F) << name << "[" << i << "]";
        most = std::max(most, std::abs(second));
      }
    }
    EXPECT_GT(most, 0x1p-19F) << "half a second step could not be told from a whole one";
  }
}

TEST_F(ZoSftTest, LearnsWithEachEstimatorAndOptimizer) {
  input_.train.local_steps = 120;
  input_.train.batch_size = 4;
  input_.train.zo.num_perturbations = 4;
  struct Case {
    const char *estimator, *optimizer;
    double learning_rate, momentum, sparse;
    uint32_t anchor;
  };
  for (const Case& one :
       {Case{"spsa", "zo_sgd", 3e-2, 0, 0, 0}, Case{"spsa_one_sided", "zo_sgd", 3e-3, 0.9, 0, 0},
        Case{"forward_gradient", "zo_adam", 1e-2, 0, 0, 0}, Case{"spsa", "zo_sign_sgd", 3e-3, 0, 0, 0},
        Case{"spsa", "zo_adam", 1e-2, 0, 0.5, 0}, Case{"spsa", "zo_sgd", 3e-2, 0, 0, 10}}) {
    input_.train.zo.estimator = one.estimator;
    input_.train.zo.optimizer = one.optimizer;
    input_.train.zo.sparse_fraction = one.sparse;
    input_.train.zo.anchor_interval = one.anchor;
    input_.train.learning_rate = one.learning_rate;
    input_.train.momentum = one.momentum;
    const auto before = EvaluateModel(input_.base_model_dir, input_.adapter_dir, input_.data_path, 16, *resources_);
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, Sum(initial_, output->update)).ok());
    const auto after = EvaluateModel(input_.base_model_dir, folder_ / "trained", input_.data_path, 16, *resources_);
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_LT(after->loss, before->loss - 0.01) << one.estimator << " " << one.optimizer << " " << one.anchor;
    // Steps of the size of a sign fall too slowly to be seen in the noise of 120 small batches.
    if (std::string_view(one.optimizer) != "zo_sign_sgd") {
      EXPECT_FALSE(output->stats.loss_stalled) << one.estimator << " " << one.optimizer;
    }
  }
}

TEST_F(ZoSftTest, SaysWhenTheLossDoesNotFall) {
  input_.train.learning_rate = 1e-9;
  input_.train.local_steps = 32;
  const auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE(output->stats.loss_stalled);
}

TEST_F(ZoSftTest, TrainsTheLayersOfItsGroupOnly) {
  input_.train.zo.layer_groups = 2;
  std::set<std::string> seen;
  for (const uint32_t group : {0U, 1U}) {
    input_.train.zo.layer_group = group;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    for (const auto& [name, tensor] : output->update) {
      EXPECT_TRUE(aggregation::InLayerGroup(name, 2, group)) << name;
      EXPECT_TRUE(seen.insert(name).second) << name;
    }
  }
  EXPECT_EQ(seen.size(), initial_.size());
  // More groups than layers are as many as there are layers: no device is left without one.
  input_.train.zo.layer_groups = 4000;
  input_.train.zo.layer_group = 3999;
  const auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  for (const auto& [name, tensor] : output->update) EXPECT_TRUE(aggregation::InLayerGroup(name, 2, 1)) << name;
  EXPECT_FALSE(output->update.empty());
}

// The mask is of the start, so data and seeds of a device do not change it.
TEST_F(ZoSftTest, TwoDevicesWithOneStartMoveTheSameSparseWeights) {
  WriteLearntAdapter();
  input_.train.local_steps = 1;
  input_.train.zo.sparse_fraction = 0.25;
  const auto moved = [&] {
    const auto output = RunZo();
    EXPECT_TRUE(output.ok()) << output.status();
    std::set<std::pair<std::string, size_t>> out;
    for (const auto& [name, tensor] : output->update) {
      const auto change = tensor.values<float>();
      size_t count = 0;
      for (size_t i = 0; i < change.size(); ++i) {
        if (std::abs(change[i]) <= 0x1p-20F) continue;  // at most rounded to the grid
        out.emplace(name, i);
        ++count;
      }
      EXPECT_EQ(count, (change.size() + 3) / 4) << name;
    }
    return out;
  };
  const auto first = moved();
  folder_.Write("data.txt", model::SampleText(30'000, 4));
  input_.seed = 12;
  EXPECT_EQ(moved(), first);
}

TEST_F(ZoSftTest, WhatIsMovedInPlaceIsFloat32) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const auto made = TrainedTensors::Make({torch::zeros({4, 3}), torch::zeros({5}, type)});
    EXPECT_EQ(made.status().code(), Code::kInternal);
    EXPECT_THAT(made.status().message(), HasSubstr("what is trained is not float32"));
  }
  EXPECT_TRUE(TrainedTensors::Make({torch::zeros({4, 3}), torch::zeros({5})}).ok());
}

// An adapter in 16-bit floats is trained as the float32 one of the same values, and so is its update.
TEST_F(ZoSftTest, AnAdapterOfSixteenBitsIsWidenedAndItsUpdateIsFloat32) {
  WriteLearntAdapter();
  for (auto& [name, tensor] : initial_) {
    std::vector<float> values;  // that both of the narrow types have: up to 102 over 1024
    for (const float value : tensor.values<float>()) values.push_back(std::nearbyint(value * 1024) / 1024 + 0.0F);
    tensor = Tensor::FromFloats(tensor.shape(), values);
  }
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  const std::string expected = Bytes();
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, Narrowed(initial_, dtype)).ok());
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(SpecOf(output->update), SpecOf(initial_)) << "float32";
    EXPECT_EQ(SerializeSafetensors(output->update), expected) << DTypeName(dtype);
  }
}

TEST_F(ZoSftTest, FrozenTensorsStayAndSparseOnesMoveInPart) {
  input_.train.rules.frozen = {"lora_A"};
  auto output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  for (const auto& [name, tensor] : output->update) EXPECT_THAT(name, HasSubstr("lora_B"));
  input_.train.rules.frozen = {"lora_B"};
  input_.train.zo.sparse_fraction = 0.25;
  output = RunZo();
  ASSERT_TRUE(output.ok()) << output.status();
  // B is zero, so that nothing of A shows in the loss: there is no gradient, and no step.
  for (const auto& [name, tensor] : output->update) {
    for (const float x : tensor.values<float>()) ASSERT_LE(std::abs(x), 1e-4F) << name;
  }
}

TEST_F(ZoSftTest, RefusesWhatItCannotDo) {
  const auto refusal = [&](const std::function<void(TaskInput&)>& change) {
    TaskInput input = input_;
    change(input);
    return MakeZoSft()->Run(input, *resources_, {}).status();
  };
  const auto bad = [&](const std::function<void(TaskInput&)>& change) {
    const Status status = refusal(change);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
  };
  bad([](TaskInput& in) { in.train.zo.zo_eps = 0; });
  bad([](TaskInput& in) { in.train.zo.zo_eps = std::nan(""); });
  bad([](TaskInput& in) { in.train.zo.zo_eps = 1e300; });
  bad([](TaskInput& in) { in.train.zo.estimator = "mezo"; });
  bad([](TaskInput& in) { in.train.zo.optimizer = "AdamW"; });
  bad([](TaskInput& in) { in.train.zo.distribution = "cauchy"; });
  bad([](TaskInput& in) { in.train.zo.sparse_fraction = 2; });
  bad([](TaskInput& in) { in.train.zo.clip_projected_grad = -1; });
  bad([](TaskInput& in) { in.train.rules.proximal_mu = 0.1; });
  bad([](TaskInput& in) { in.train.rules.correction = "scaffold"; });
  bad([](TaskInput& in) {
    in.train.zo.anchor_interval = 3;
    in.train.momentum = 0.5;
  });
  EXPECT_EQ(refusal([](TaskInput& in) { in.train.zo.max_loss_difference = 1e-30; }).code(), Code::kInternal);
  int steps = 0;
  const auto stopped = MakeZoSft()->Run(input_, *resources_, [&](uint32_t, uint32_t, double) { return ++steps < 2; });
  EXPECT_EQ(stopped.status().code(), Code::kCancelled);
}

TEST_F(ZoSftTest, FitsWhereTrainingWithGradientsDoesNot) {
  input_.train.batch_size = 64;
  input_.train.sequence_length = 64;
  const auto config = model::TinyConfig();
  const auto options = MakeTrainOptions(input_, config);
  ASSERT_TRUE(options.ok());
  const uint64_t training = EstimateTrainingBytes(config, input_.train, *options);
  const uint64_t forward = EstimateForwardBytes(config, input_.train, *options);
  ASSERT_LT(forward, training);
  input_.memory_limit_bytes = (training + forward) / 2;
  EXPECT_EQ(Run().status().code(), Code::kResourceExhausted);
  const auto output = RunZo();
  EXPECT_TRUE(output.ok()) << output.status();
}

// What a task keeps beside a forward pass and the adapter, in bytes; a limit that has room for less refuses it.
TEST_F(ZoSftTest, TheEstimateHasAllThatIsKept) {
  uint64_t weights = 0, of_a = 0, largest = 0;
  for (const auto& [name, tensor] : initial_) {
    const auto size = static_cast<uint64_t>(tensor.numel());
    weights += size;
    largest = std::max(largest, size);
    if (name.find("lora_A") != std::string::npos) of_a += size;
  }
  struct Case {
    const char* what;
    std::function<void(TrainSettings&)> change;
    uint64_t kept;
  };
  const std::vector<Case> cases = {
      {"plain steps", [](TrainSettings&) {}, 0},
      {"momentum", [](TrainSettings& t) { t.momentum = 0.9; }, 4 * weights},
      {"Adam", [](TrainSettings& t) { t.zo.optimizer = "zo_adam"; }, 8 * weights},
      {"signs have no momentum",
       [](TrainSettings& t) {
         t.zo.optimizer = "zo_sign_sgd";
         t.momentum = 0.9;
       },
       0},
      {"of what is trained only",
       [](TrainSettings& t) {
         t.zo.optimizer = "zo_adam";
         t.rules.frozen = {"lora_B"};
       },
       8 * of_a},
      {"tangents", [](TrainSettings& t) { t.zo.estimator = "forward_gradient"; }, 4 * weights},
      {"a mask", [](TrainSettings& t) { t.zo.sparse_fraction = 0.25; }, (weights + 7) / 8 + 4 * largest},
      // The anchor's 5 terms, and after each of 4 steps these and 2.
      {"an anchor",
       [](TrainSettings& t) {
         t.zo.anchor_interval = 10;
         t.zo.anchor_perturbations = 5;
         t.zo.num_perturbations = 2;
       },
       48 * (5 + 4 * (5 + 2))},
  };
  const TaskInput plain = input_;
  for (const Case& one : cases) {
    input_ = plain;
    one.change(input_.train);
    const auto options = MakeTrainOptions(input_, model::TinyConfig());
    ASSERT_TRUE(options.ok()) << options.status();
    const uint64_t before = EstimateForwardBytes(model::TinyConfig(), input_.train, *options) + TotalBytes(initial_);
    input_.memory_limit_bytes = before + one.kept;
    const auto output = RunZo();
    ASSERT_TRUE(output.ok()) << one.what << ": " << output.status();
    EXPECT_EQ(output->stats.estimated_memory_bytes, before + one.kept) << one.what;
    input_.memory_limit_bytes = before + one.kept - 1;
    EXPECT_EQ(RunZo().status().code(), Code::kResourceExhausted) << one.what;
  }
}

}  // namespace
}  // namespace heddle::client
