// Frames of split learning: what is written is read as the same, and what no peer may send is refused by its kind.
#include "protocol/split/frame.h"

#include <gtest/gtest.h>

#include <limits>

namespace heddle::protocol {
namespace {

TensorFrame Activations() {
  TensorFrame frame;
  frame.session = 0x1122334455667788;
  frame.sequence = 3;
  frame.step = 2;
  frame.micro = 1;
  frame.micros = 4;
  frame.counted = 5;
  frame.rows = 2;
  frame.length = 3;
  frame.width = 4;
  frame.mask = {1, 1, 1, 1, 0, 0};
  frame.segments = {0, 0, 1, 0, 1, 1};
  frame.targets = {1, 2, -100, 4, -100, -100};
  const std::vector<float> values(24, 0.5F);
  EXPECT_TRUE(EncodeTensor(frame.encoding, values, frame.width, &frame.tensor).ok());
  return frame;
}

Code Refused(const TensorFrame& frame, const FrameLimits& limits = {}) {
  return ParseTensorFrame(Serialize(frame), limits).status().code();
}

TEST(SplitFrame, IsReadAsItWasWritten) {
  const TensorFrame frame = Activations();
  const auto read = ParseTensorFrame(Serialize(frame));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, frame);
  EXPECT_EQ(*KindOf(Serialize(frame)), FrameKind::kActivations);

  TensorFrame graded = frame;
  graded.targets.clear();
  graded.grades = {0.5F, -2};
  EXPECT_EQ(*ParseTensorFrame(Serialize(graded)), graded);
  TensorFrame classes = frame;
  classes.targets = {1, 0};
  EXPECT_EQ(*ParseTensorFrame(Serialize(classes)), classes);

  TensorFrame answer;
  answer.kind = FrameKind::kGradient;
  answer.sequence = answer.step = answer.rows = answer.length = answer.width = 1;
  answer.durable = 1;
  answer.loss = 1.25;
  answer.tensor = std::string(4, '\0');
  EXPECT_EQ(*ParseTensorFrame(Serialize(answer)), answer);
}

TEST(SplitFrame, TakesLittleMoreThanItsTensor) {
  TensorFrame frame = Activations();
  frame.rows = 8;
  frame.length = 128;
  frame.width = 768;
  frame.mask.assign(8 * 128, 1);
  frame.segments.clear();
  frame.targets.clear();
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    frame.encoding = encoding;
    frame.tensor.clear();
    const std::vector<float> values(frame.tokens() * frame.width, 1.0F);
    ASSERT_TRUE(EncodeTensor(encoding, values, frame.width, &frame.tensor).ok());
    const double plain = static_cast<double>(values.size()) * (encoding == CutEncoding::kFloat32    ? 4
                                                               : encoding == CutEncoding::kBfloat16 ? 2
                                                                                                    : 1);
    EXPECT_LT(static_cast<double>(Serialize(frame).size()), 1.01 * plain);
  }
}

TEST(SplitFrame, NoByteMayBeMissingOrLeftOver) {
  const std::string bytes = Serialize(Activations());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ParseTensorFrame(std::string_view(bytes).substr(0, size)).status().code(), Code::kInvalidArgument)
        << size;
  }
  EXPECT_EQ(ParseTensorFrame(bytes + '\0').status().code(), Code::kInvalidArgument);
}

TEST(SplitFrame, WhatIsLargerThanThePlanIsRefusedAsTooLarge) {
  const TensorFrame frame = Activations();
  FrameLimits limits{.rows = 2, .length = 3, .width = 4, .bytes = Serialize(frame).size()};
  EXPECT_EQ(Refused(frame, limits), Code::kOk);
  FrameLimits fewer = limits;
  fewer.rows = 1;
  EXPECT_EQ(Refused(frame, fewer), Code::kResourceExhausted);
  FrameLimits shorter = limits;
  shorter.length = 2;
  EXPECT_EQ(Refused(frame, shorter), Code::kResourceExhausted);
  FrameLimits smaller = limits;
  smaller.bytes -= 1;
  EXPECT_EQ(Refused(frame, smaller), Code::kResourceExhausted);
  FrameLimits wider = limits;
  wider.width = 8;
  EXPECT_EQ(Refused(frame, wider), Code::kInvalidArgument);
  FrameLimits coarser = limits;
  coarser.encoding = CutEncoding::kInt8;
  coarser.any_encoding = false;
  EXPECT_EQ(Refused(frame, coarser), Code::kInvalidArgument);
  // A head that claims more elements than any plan may have.
  std::string huge = Serialize(frame);
  for (size_t i = 0; i < 12; ++i) huge[40 + i] = '\x7f';
  EXPECT_EQ(ParseTensorFrame(huge).status().code(), Code::kResourceExhausted);
}

TEST(SplitFrame, TheLargestIsTheOneWithAllThatItMayHave) {
  for (const CutEncoding encoding : {CutEncoding::kFloat32, CutEncoding::kBfloat16, CutEncoding::kInt8}) {
    TensorFrame frame = Activations();
    frame.encoding = encoding;
    frame.tensor.clear();
    ASSERT_TRUE(EncodeTensor(encoding, std::vector<float>(24, 0.5F), frame.width, &frame.tensor).ok());
    FrameLimits limits{.rows = 2, .length = 3, .width = 4, .encoding = encoding, .any_encoding = false};
    limits.bytes = LargestTensorFrame(frame.kind, limits);
    EXPECT_EQ(limits.bytes, Serialize(frame).size()) << "mask, segments and a target for each token";
    EXPECT_EQ(Refused(frame, limits), Code::kOk);
    EXPECT_EQ(ParseTensorFrame(Serialize(frame) + '\0', limits).status().code(), Code::kResourceExhausted);
    frame.kind = FrameKind::kTailGradient;
    frame.mask.clear(), frame.segments.clear(), frame.targets.clear();
    EXPECT_EQ(LargestTensorFrame(frame.kind, limits), Serialize(frame).size());
  }
  ControlFrame hello;
  hello.text = std::string(2000, 'x');
  EXPECT_EQ(Serialize(hello).size(), kMaxSplitControlBytes);
}

TEST(SplitFrame, NumbersThatCannotBeAreRefused) {
  const auto with = [](auto change) {
    TensorFrame frame = Activations();
    change(frame);
    return Refused(frame);
  };
  EXPECT_EQ(with([](TensorFrame& f) { f.sequence = 0; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.step = 0; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.micro = 4; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.micros = 0; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.micros = kMaxSplitMicroBatches + 1; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.durable = 1; }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.loss = std::numeric_limits<double>::quiet_NaN(); }), Code::kInvalidArgument);
  EXPECT_EQ(with([](TensorFrame& f) { f.kind = FrameKind::kTailGradient; }), Code::kInvalidArgument);
}

TEST(SplitFrame, ControlFramesAreReadAsTheyWereWritten) {
  ControlFrame welcome;
  welcome.kind = FrameKind::kWelcome;
  welcome.session = 7;
  welcome.round = 2;
  welcome.last = 4;
  welcome.seed = 99;
  welcome.tensors.emplace("a.lora_A.weight", Tensor::FromFloats({1, 2}, std::vector<float>{1, 2}));
  const auto read = ParseControlFrame(Serialize(welcome));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->session, 7U);
  EXPECT_EQ(read->round, 2U);
  EXPECT_EQ(read->last, 4U);
  EXPECT_EQ(read->seed, 99U);
  EXPECT_EQ(*read->tensors.at("a.lora_A.weight").ToFloats(), (std::vector<float>{1, 2}));
  EXPECT_EQ(Serialize(*read), Serialize(welcome));

  const Status reason = ResourceExhausted("there are 16 devices already; ask again later");
  const auto refusal = ParseControlFrame(RefusalFrame(reason, 500));
  ASSERT_TRUE(refusal.ok());
  EXPECT_EQ(StatusOf(*refusal).code(), Code::kResourceExhausted);
  EXPECT_NE(StatusOf(*refusal).message().find(reason.message()), std::string::npos);
  EXPECT_EQ(refusal->retry_ms, 500U);
  EXPECT_TRUE(StatusOf(*read).ok());
}

TEST(SplitFrame, ControlFramesThatAreNoneAreRefused) {
  ControlFrame hello;
  hello.text = "digest";
  const std::string good = Serialize(hello);
  EXPECT_TRUE(ParseControlFrame(good).ok());
  EXPECT_EQ(ParseControlFrame(good + "x").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(ParseControlFrame(good.substr(0, good.size() - 1)).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(ParseControlFrame(good, 10).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(ParseControlFrame(Serialize(Activations())).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(ParseTensorFrame(good).status().code(), Code::kInvalidArgument);
  ControlFrame odd = hello;
  odd.code = 3;  // of what is no refusal
  EXPECT_EQ(ParseControlFrame(Serialize(odd)).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::protocol
