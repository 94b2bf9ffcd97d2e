// The end of a task: what bytes travel, and what stays on the device of what they leave out.
#include "client/worker/upload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregation/compression/compressor.h"
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

TEST_F(UploadTest, AWordThatThisDeviceDoesNotKnowIsRefused) {
  input_.train.rules.upload = {"top_k:0.5", "wavelets"};
  const Status known = CheckUpload(input_.train.rules);
  EXPECT_EQ(known.code(), Code::kInvalidArgument);
  EXPECT_THAT(known.message(), HasSubstr("this device cannot make its update smaller as the plan asks: 'wavelets'"));
  EXPECT_FALSE(MakeUpload(input_, &output_).ok());
}

}  // namespace
}  // namespace heddle::client
