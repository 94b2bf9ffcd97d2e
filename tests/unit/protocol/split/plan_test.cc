// The file that both sides of a split run are set up with.
#include "protocol/split/plan.h"

#include <gtest/gtest.h>

namespace heddle::protocol {
namespace {

Result<SplitPlan> Load(const std::string& lines) {
  return SplitPlan::LoadText("base_model = \"base\"\n" + lines, "/plans", "plan.toml");
}

TEST(SplitPlan, HasDefaultsAndPathsRelativeToItsFile) {
  const auto plan = Load("");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->base_model, "/plans/base");
  EXPECT_TRUE(plan->u_shaped());
  EXPECT_EQ(plan->gradient_encoding, CutEncoding::kFloat32);
  EXPECT_EQ(plan->schedule().RequestsOfStep(), 2U);
}

TEST(SplitPlan, GradientsTravelAsActivationsDoUnlessTheFileSaysMore) {
  EXPECT_EQ(Load("[split]\nencoding = \"int8\"\n")->gradient_encoding, CutEncoding::kInt8);
  const auto both = Load("[split]\nencoding = \"int8\"\ngradient_encoding = \"bf16\"\n");
  EXPECT_EQ(both->encoding, CutEncoding::kInt8);
  EXPECT_EQ(both->gradient_encoding, CutEncoding::kBfloat16);
}

TEST(SplitPlan, EveryRecipeIsRead) {
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HEDDLE_SOURCE_DIR "/recipes/split")) {
    const auto plan = SplitPlan::LoadFile(entry.path());
    EXPECT_TRUE(plan.ok()) << plan.status();
    if (plan.ok()) {
      EXPECT_EQ(plan->name, entry.path().stem());
      const bool brought = plan->base_model.filename() == "bert";  // by whoever runs it: there is no small one here
      EXPECT_TRUE(brought || std::filesystem::exists(plan->base_model / "config.json"));
      ++read;
    }
  }
  EXPECT_GE(read, 4);
}

TEST(SplitPlan, EveryMistakeIsNamed) {
  const auto plan = Load("rouns = 1\n[split]\ntopology = \"w\"\ncut = -1\n");
  ASSERT_EQ(plan.status().code(), Code::kInvalidArgument);
  for (const char* part : {"rouns", "split.topology", "split.cut"}) {
    EXPECT_NE(plan.status().message().find(part), std::string::npos) << part;
  }
  EXPECT_NE(Load("[split]\nserver_batch = 4\n[server]\npeft_type = \"FULL\"\n").status().message().find("server_batch"),
            std::string::npos);
  EXPECT_EQ(Load("[privacy]\nnoise_multiplier = 1\n").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(Load("[privacy]\nlabel_epsilon = 1\n").status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(Load("[privacy]\nlabel_epsilon = 1\n[split]\ntopology = \"label_sharing\"\n").ok());
  EXPECT_EQ(Load("[device]\npeft_type = \"NONE\"\n[server]\npeft_type = \"NONE\"\n").status().code(),
            Code::kInvalidArgument);
}

TEST(SplitPlan, TheStrategyTakesNumbersOfItsOwn) {
  const auto plan = Load("[strategy]\nname = \"FedAvgM\"\nmax_abs = 4\nserver-momentum = 0.5\nbeta_1 = 1e-3\n");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->strategy, "FedAvgM");
  EXPECT_EQ(plan->max_abs, 4);
  EXPECT_EQ(plan->strategy_settings, (std::map<std::string, double>{{"server_momentum", 0.5}, {"beta_1", 1e-3}}));
  EXPECT_NE(plan->Digest("base"),
            Load("[strategy]\nname = \"FedAvgM\"\nserver_momentum = 0.25\nbeta_1 = 1e-3\n")->Digest("base"));
  EXPECT_EQ(Load("")->strategy, "FedAvg");
  EXPECT_EQ(Load("")->max_abs, 16);
  for (const char* wrong :
       {"[strategy]\nname = \"\"", "[strategy]\nmax_abs = 0", "[strategy]\nmax_abs = 1e13", "[strategy]\nmax_abs = nan",
        "[strategy]\nserver_momentum = inf", "[strategy]\nserver_momentum = true",
        "[strategy]\nserver_momentum = \"fast\"", "[strategy]\nserver_momentum = [0.5]", "strategy = 3",
        "[split]\nserver = \"sequential\"\n[strategy]\nname = \"FedAdam\""}) {
    EXPECT_EQ(Load(wrong).status().code(), Code::kInvalidArgument) << wrong;
  }
}

TEST(SplitPlan, ARoundHasAnHourOrTheTimeOfItsStepsForEachTurnUnlessTheFileSaysMore) {
  EXPECT_EQ(Load("")->RoundTimeout(1), 3600);
  EXPECT_EQ(Load("[train]\nlocal_steps = 1000")->RoundTimeout(1), 30'000) << "of 30 s each, step_timeout_s";
  EXPECT_EQ(Load("[split]\nround_timeout_s = 90")->RoundTimeout(3), 90);
  EXPECT_EQ(Load("[split]\nround_timeout_s = 0")->RoundTimeout(3), 0);
  // Five devices of which two have a place at a time come in three turns.
  const auto turns = Load("devices_per_round = 5\n[split]\nmax_sessions = 2");
  EXPECT_EQ(turns->turns(9), 3U);
  EXPECT_EQ(turns->turns(1), 5U) << "where memory has room for one at a time";
  EXPECT_EQ(turns->RoundTimeout(5), 5 * 3600);
  const auto sequence = Load("devices_per_round = 5\n[split]\nserver = \"sequential\"\nround_timeout_s = 100");
  EXPECT_EQ(sequence->turns(9), 5U);
  EXPECT_EQ(sequence->RoundTimeout(5), 100);
}

TEST(SplitPlan, ItsDigestIsThatOfWhatBothSidesMustAgreeOn) {
  const SplitPlan plan = *Load("");
  EXPECT_EQ(plan.Digest("base"),
            Load("[split]\ncheckpoint_every = 7\nserver_batch = 3\nserver_wait_ms = 1\n")->Digest("base"));
  EXPECT_EQ(plan.Digest("base"), Load("[device]\ngradient_checkpointing = false")->Digest("base"));
  EXPECT_NE(plan.Digest("base"), plan.Digest("another"));
  for (const char* other :
       {"seed = 2", "[split]\ncut = 0", "[split]\ntopology = \"label_sharing\"", "[split]\nencoding = \"bf16\"",
        "[split]\ngradient_encoding = \"bf16\"", "[device]\nr = 4", "[server]\nlearning_rate = 0.5",
        "[split]\npipeline = 2", "[privacy]\nclip_norm = 3", "[train]\nlocal_steps = 9",
        "[strategy]\nname = \"FedAvgM\"", "[strategy]\nserver_momentum = 0.5"}) {
    EXPECT_NE(plan.Digest("base"), Load(other)->Digest("base")) << other;
  }
}

}  // namespace
}  // namespace heddle::protocol
