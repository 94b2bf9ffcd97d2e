// bbpt: the search it sends, that the same seed searches the same way, that it learns, and what it refuses.
#include "client/worker/bbpt.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/safetensors.h"
#include "peft/adapter/prompt_projection.h"
#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

constexpr int64_t kDimensions = 12;

class BbptTest : public TaskTest {
 protected:
  BbptTest() {
    config_ = {};
    config_.peft_type = "PROMPT_TUNING";
    config_.num_virtual_tokens = 3;
    const int64_t hidden = model::TinyConfig().hidden_size;
    initial_ = peft::PromptProjection{3, hidden, kDimensions, 0.5}.InitialModel(1);
    EXPECT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
    input_.train.zo.intrinsic_dim = kDimensions;
    input_.train.zo.population = 6;
    input_.train.sequence_length = 12;
  }
  Result<TaskOutput> RunBbpt() { return MakeBbpt()->Run(input_, *resources_, {}); }
  double LossOf(const std::filesystem::path& adapter) {
    const auto evaluation = EvaluateModel(input_.base_model_dir, adapter, input_.data_path, 12, *resources_);
    EXPECT_TRUE(evaluation.ok()) << evaluation.status();
    return evaluation.ok() ? evaluation->loss : NAN;
  }
};

TEST_F(BbptTest, SendsMeanAndSigmaOnlyInAFewBytes) {
  const auto output = RunBbpt();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(SpecOf(output->update), (StateDictSpec{{"prompt_coordinates", {DType::kF32, {kDimensions}}},
                                                   {"prompt_variance", {DType::kF32, {1}}}}));
  EXPECT_EQ(output->stats.forward_passes, 4U * 6U);
  EXPECT_EQ(output->stats.num_examples, 8U);
  EXPECT_EQ(output->stats.steps, 4U);
  // With the 500 coordinates of the paper's recipe: both ways of a round in 10 KB.
  const StateDict search = peft::PromptProjection{50, 1024, 500, 1}.InitialModel(1);
  EXPECT_LE(2 * SerializeSafetensors(search).size(), 10'000U);
}

TEST_F(BbptTest, SameSeedSearchesTheSameWay) {
  const auto bytes = [&] {
    const auto output = RunBbpt();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? SerializeSafetensors(output->update) : "";
  };
  const std::string first = bytes();
  EXPECT_EQ(bytes(), first);
  input_.seed = 12;
  EXPECT_NE(bytes(), first);
}

TEST_F(BbptTest, FindsAPromptThatTheModelDoesBetterWith) {
  input_.train.local_steps = 40;
  input_.train.batch_size = 8;
  const double before = LossOf(folder_ / "adapter");
  const auto output = RunBbpt();
  ASSERT_TRUE(output.ok()) << output.status();
  StateDict trained = initial_;
  for (const auto& [name, tensor] : Sum({{"prompt_coordinates", initial_.at("prompt_coordinates")},
                                         {"prompt_variance", initial_.at("prompt_variance")}},
                                        output->update)) {
    trained.insert_or_assign(name, tensor);
  }
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, trained).ok());
  EXPECT_LT(LossOf(folder_ / "trained"), before - 0.002);
  EXPECT_FALSE(output->stats.loss_stalled);
}

TEST_F(BbptTest, RefusesAnAdapterThatIsNoSearchAndRulesOfAStrategy) {
  const auto code = [&](const std::function<void(TaskInput&)>& change) {
    TaskInput input = input_;
    change(input);
    return MakeBbpt()->Run(input, *resources_, {}).status().code();
  };
  EXPECT_EQ(code([](TaskInput& in) { in.train.zo.intrinsic_dim = 13; }), Code::kInvalidArgument);
  EXPECT_EQ(code([](TaskInput& in) { in.train.zo.population = 2; }), Code::kInvalidArgument);
  EXPECT_EQ(code([](TaskInput& in) { in.train.rules.kept = {"prompt_variance"}; }), Code::kInvalidArgument);
  EXPECT_EQ(code([](TaskInput& in) { in.train.rules.proximal_mu = 1; }), Code::kInvalidArgument);
  EXPECT_EQ(code([](TaskInput& in) { in.memory_limit_bytes = 1; }), Code::kResourceExhausted);
  StateDict wrong = peft::PromptProjection{3, model::TinyConfig().hidden_size + 1, kDimensions, 0.5}.InitialModel(1);
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, wrong).ok());
  EXPECT_EQ(code([](TaskInput&) {}), Code::kInvalidArgument);
  WriteAdapter({});
  EXPECT_EQ(code([](TaskInput&) {}), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::client
