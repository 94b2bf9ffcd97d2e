// The end of a task: what bytes travel, and what stays on the device of what they leave out.
#include "client/worker/upload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "aggregation/compression/compressor.h"
#include "aggregation/privacy/update_privacy.h"
#include "common/safetensors.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::client {
namespace {

using testing::HasSubstr;

StateDict Tensors(const std::map<std::string, std::vector<float>>& values) {
  StateDict out;
  for (const auto& [name, all] : values) out.emplace(name, Tensor::FromFloats({static_cast<int64_t>(all.size())}, all));
  return out;
}

std::vector<float> ValuesOf(const StateDict& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return {};
  const auto values = found->second.values<float>();
  return {values.begin(), values.end()};
}

class UploadTest : public testing::Test {
 protected:
  // The bytes of this update; what the device keeps goes to output_.personal, and with `keep` to its file.
  std::string Send(const StateDict& update, bool keep = true) {
    output_ = TaskOutput{update, {}, {}};
    auto bytes = MakeUpload(input_, &output_);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (keep && !output_.personal.empty()) {
      EXPECT_TRUE(WriteSafetensors(input_.personal_path, output_.personal).ok());
    }
    return bytes.ok() ? *bytes : "";
  }
  StateDict Decode(const std::string& bytes, const StateDict& like) {
    const compression::Compressor compressor(*compression::Pipeline::Parse(input_.train.rules.upload), input_.seed);
    auto decoded = compressor.Decode(std::as_bytes(std::span(bytes)), SpecOf(like), 1 << 20);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    return decoded.ok() ? *decoded : StateDict();
  }

  TempDir folder_;
  TaskInput input_ = [this] {
    TaskInput input;
    input.seed = 11;
    input.personal_path = folder_ / "personal.safetensors";
    return input;
  }();
  TaskOutput output_;
};

TEST_F(UploadTest, IsTheFileOfTheUpdateWhereNothingIsAskedFor) {
  const StateDict update = Tensors({{"a", {1, 2}}});
  EXPECT_EQ(Send(update), SerializeSafetensors(update));
  EXPECT_TRUE(output_.personal.empty());
}

TEST_F(UploadTest, IsEncodedWithTheTasksSeedAndKeepsNothingWithoutErrorFeedback) {
  input_.train.rules.upload = {"top_k:0.5"};
  const StateDict update = Tensors({{"a", {1, -3}}});
  EXPECT_EQ(ValuesOf(Decode(Send(update), update), "a"), (std::vector<float>{0, -3}));
  EXPECT_TRUE(output_.personal.empty());
}

TEST_F(UploadTest, WhatIsLeftOutJoinsTheNextUpdateOnceTheFirstWasAccepted) {
  input_.train.rules.upload = {"top_k:0.5", "error_feedback"};
  const StateDict update = Tensors({{"a", {2, -3}}});
  EXPECT_EQ(ValuesOf(Decode(Send(update, /*keep=*/false), update), "a"), (std::vector<float>{0, -3}));
  // That one was not accepted: the device's file is as before, and so is what it sends.
  EXPECT_EQ(ValuesOf(Decode(Send(update), update), "a"), (std::vector<float>{0, -3}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.a"), (std::vector<float>{2, 0}));
  EXPECT_EQ(ValuesOf(Decode(Send(update), update), "a"), (std::vector<float>{4, 0}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.a"), (std::vector<float>{0, -3}));
}

TEST_F(UploadTest, WhatIsLeftOfTensorsThatAreNotInThisUpdateWaits) {
  input_.train.rules.upload = {"top_k:0.5", "error_feedback"};
  Send(Tensors({{"a", {2, -3}}, {"b", {1, 7}}}));
  Send(Tensors({{"b", {1, 0}}}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.a"), (std::vector<float>{2, 0}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.b"), (std::vector<float>{0, 0}));
  // Of a tensor in another shape nothing is left.
  Send(Tensors({{"a", {1, 1, 5}}}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.a"), (std::vector<float>{0, 1, 0}));
}

TEST_F(UploadTest, WhatIsLeftOfFactorsIsCutToTheRankThatTheDeviceHasPrunedItselfTo) {
  input_.train.rules.upload = {"top_k:0.1", "error_feedback"};  // one value of each
  const auto factors = [](int64_t rank, const std::vector<float>& a, const std::vector<float>& b) {
    return StateDict{{"h.0.lora_A.weight", Tensor::FromFloats({rank, 2}, a)},
                     {"h.0.lora_B.weight", Tensor::FromFloats({2, rank}, b)}};
  };
  Send(factors(3, {1, 2, 3, 4, 5, 9}, {1, 2, 3, 4, 5, 9}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.h.0.lora_A.weight"), (std::vector<float>{1, 2, 3, 4, 5, 0}));
  Send(factors(2, {0, 0, 0, 10}, {0, 0, 0, 10}));
  // The first two rows of A and columns of B, with what the second update adds, less what it sends.
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.h.0.lora_A.weight"), (std::vector<float>{1, 2, 3, 0}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.h.0.lora_B.weight"), (std::vector<float>{1, 2, 4, 0}));
}

TEST_F(UploadTest, StandsBesideWhatElseTheDeviceKeeps) {
  input_.train.rules.upload = {"top_k:0.5", "error_feedback"};
  output_ = TaskOutput{Tensors({{"a", {2, -3}}}), {}, Tensors({{"own", {9}}})};
  ASSERT_TRUE(MakeUpload(input_, &output_).ok());
  EXPECT_EQ(ValuesOf(output_.personal, "own"), (std::vector<float>{9}));
  EXPECT_EQ(ValuesOf(output_.personal, "heddle.residual.a"), (std::vector<float>{2, 0}));
}

TEST_F(UploadTest, ADamagedFileIsBegunAnew) {
  input_.train.rules.upload = {"top_k:0.5", "error_feedback"};
  folder_.Write("personal.safetensors", "no tensors at all");
  const StateDict update = Tensors({{"a", {2, -3}}});
  EXPECT_EQ(ValuesOf(Decode(Send(update), update), "a"), (std::vector<float>{0, -3}));
}

// ---- clipping and noise ----

TEST_F(UploadTest, IsClippedBeforeItIsMadeSmaller) {
  input_.train.rules.upload = {"clip:2.5"};
  EXPECT_EQ(Send(Tensors({{"a", {3}}, {"b", {-4}}})), SerializeSafetensors(Tensors({{"a", {1.5}}, {"b", {-2}}})));
  input_.train.rules.upload = {"clip:2.5", "top_k:0.5"};
  const StateDict update = Tensors({{"a", {3, -4}}});
  const std::string sent = Send(update);
  input_.train.rules.upload = {"top_k:0.5"};
  EXPECT_EQ(sent, Send(Tensors({{"a", {1.5, -2}}})));
}

TEST_F(UploadTest, NoiseIsOfTheTasksSecretAndTheSameEachTimeWhateverMakesItSmaller) {
  const StateDict update = Tensors({{"a", {3, -4, 5}}, {"b", {1}}});
  const privacy::UpdatePrivacy how{.clip = 2.5, .noise_multiplier = 0.5};
  for (const std::vector<std::string>& smaller : {std::vector<std::string>{}, {"int8"}, {"top_k:0.5", "int4"}}) {
    const auto send = [&](const StateDict& what, std::vector<std::string> words, const std::string& secret) {
      words.insert(words.end(), smaller.begin(), smaller.end());
      input_.train.rules.upload = std::move(words);
      output_ = TaskOutput{what, {}, {}};
      auto bytes = MakeUpload(input_, &output_, secret);
      EXPECT_TRUE(bytes.ok()) << bytes.status();
      return bytes.ok() ? *bytes : "";
    };
    const std::string sent = send(update, how.Words(), "secret");
    EXPECT_EQ(sent, send(update, how.Words(), "secret"));
    EXPECT_NE(sent, send(update, how.Words(), "another"));
    const auto noised = privacy::MakePrivate(update, how, "secret");
    ASSERT_TRUE(noised.ok()) << noised.status();
    EXPECT_EQ(sent, send(*noised, {}, "")) << "what makes it smaller sees the noised update only";
  }
}

TEST_F(UploadTest, WhatErrorFeedbackKeepsHasItsNoise) {
  input_.train.rules.upload = {"clip:2.5", "noise:0.5", "top_k:0.5", "error_feedback"};
  const StateDict update = Tensors({{"a", {3, -4}}});
  const auto noised = privacy::MakePrivate(update, {.clip = 2.5, .noise_multiplier = 0.5}, "secret");
  ASSERT_TRUE(noised.ok()) << noised.status();
  output_ = TaskOutput{update, {}, {}};
  const auto sent = MakeUpload(input_, &output_, "secret");
  ASSERT_TRUE(sent.ok()) << sent.status();
  input_.train.rules.upload.erase(input_.train.rules.upload.begin(), input_.train.rules.upload.begin() + 2);
  const std::vector<float> decoded = ValuesOf(Decode(*sent, update), "a"), whole = ValuesOf(*noised, "a"),
                           kept = ValuesOf(output_.personal, "heddle.residual.a");
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(decoded[i] + kept[i], whole[i]);
}

TEST_F(UploadTest, WithNoiseTheLossesAreWithheldAndWithClippingAloneTheyAreTold) {
  const auto told = [&](std::vector<std::string> words) {
    input_.train.rules.upload = std::move(words);
    output_ = TaskOutput{Tensors({{"a", {3}}}),
                         {.num_examples = 8,
                          .steps = 2,
                          .train_loss = 3,
                          .first_loss = 4,
                          .last_loss = 2,
                          .skipped_directions = 1,
                          .loss_stalled = true},
                         {}};
    EXPECT_TRUE(MakeUpload(input_, &output_, "secret").ok());
    return output_.stats;
  };
  EXPECT_EQ(told({"clip:1"}).first_loss, 4);
  const TaskStats withheld = told({"clip:1", "noise:1"});
  EXPECT_TRUE(std::isnan(withheld.train_loss) && std::isnan(withheld.first_loss) && std::isnan(withheld.last_loss));
  EXPECT_FALSE(withheld.loss_stalled);
  EXPECT_EQ(withheld.skipped_directions, 0U);
  EXPECT_EQ(withheld.num_examples, 8U) << "the weight of the update";
  EXPECT_EQ(withheld.steps, 2U);
}

TEST_F(UploadTest, NoiseWithoutASecretIsRefusedBeforeAnythingIsComputed) {
  input_.train.rules.upload = {"clip:1", "noise:1"};
  const Status known = CheckUpload(input_.train.rules, "");
  EXPECT_EQ(known.code(), Code::kFailedPrecondition);
  EXPECT_THAT(known.message(), HasSubstr("was given no secret"));
  output_ = TaskOutput{Tensors({{"a", {3}}}), {}, {}};
  EXPECT_FALSE(MakeUpload(input_, &output_).ok());
  EXPECT_TRUE(CheckUpload(input_.train.rules, "secret").ok());
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"clip:x"}, {"noise:1"}, {"int8", "clip:1"}, {"clip:1", "clip:1"}}) {
    input_.train.rules.upload = words;
    EXPECT_EQ(CheckUpload(input_.train.rules, "secret").code(), Code::kInvalidArgument) << words[0];
  }
}

TEST_F(UploadTest, AWordThatThisDeviceDoesNotKnowIsRefused) {
  input_.train.rules.upload = {"top_k:0.5", "wavelets"};
  const Status known = CheckUpload(input_.train.rules);
  EXPECT_EQ(known.code(), Code::kInvalidArgument);
  EXPECT_THAT(known.message(), HasSubstr("this device cannot make its update smaller as the plan asks: 'wavelets'"));
  EXPECT_FALSE(MakeUpload(input_, &output_).ok());
}

}  // namespace
}  // namespace heddle::client
