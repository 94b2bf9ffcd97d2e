// What no device may send: a typed refusal, and the others go on as if nothing had been.
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;

Code CodeOf(const std::string& answer) {
  if (*protocol::KindOf(answer) != FrameKind::kRefusal) return Code::kOk;
  return protocol::StatusOf(*protocol::ParseControlFrame(answer)).code();
}

class Refusals : public testing::Test {
 protected:
  // Device 0 is about to send its second activations, device 1 its first frame.
  Refusals() {
    undisturbed_.Interleaved();
    for (int i = 0; i < 3; ++i) world_.Turn("device-0");
    request_ = *protocol::ParseTensorFrame(world_.Next("device-0"));
    EXPECT_EQ(request_.sequence, 3U);
  }
  ~Refusals() override {
    world_.Interleaved();
    ExpectSameBits(world_.Outcome(), undisturbed_.Outcome());
  }
  Code Refused(const TensorFrame& frame, const std::string& device = "device-0") {
    return CodeOf(world_.server->Handle(device, Serialize(frame)));
  }
  template <typename Change>
  Code With(Change change) {
    TensorFrame frame = request_;
    change(frame);
    return Refused(frame);
  }

  static inline const std::map<std::string, std::string> kSettings = {{"split.server", "per_device"},
                                                                      {"split.checkpoint_every", "3"}};
  SplitWorld undisturbed_{kSettings}, world_{kSettings};
  TensorFrame request_;
};

TEST_F(Refusals, FramesOutOfOrderOrOfAnotherStep) {
  EXPECT_EQ(With([](TensorFrame& f) { f.sequence = 5; }), Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) {
              f.sequence = 5;
              f.step = 3;
            }),
            Code::kFailedPrecondition);
  EXPECT_EQ(With([](TensorFrame& f) { f.step = 1; }), Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) { f.micro = 1, f.micros = 2; }), Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) { f.kind = FrameKind::kTailGradient; }), Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) { f.sequence = 4000; }), Code::kOutOfRange);
}

TEST_F(Refusals, TensorsThatAreNotThePlans) {
  EXPECT_EQ(With([](TensorFrame& f) {
              f.rows *= 2;
              f.tensor += f.tensor;
            }),
            Code::kResourceExhausted);
  EXPECT_EQ(With([](TensorFrame& f) {
              f.length *= 64;
              f.tensor.resize(64 * f.tensor.size());
            }),
            Code::kResourceExhausted);
  EXPECT_EQ(With([](TensorFrame& f) {
              f.width /= 2;
              f.length *= 2;
            }),
            Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) {
              f.encoding = protocol::CutEncoding::kBfloat16;
              f.tensor.resize(f.tensor.size() / 2);
            }),
            Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) {
              const float nan = std::numeric_limits<float>::quiet_NaN();
              f.tensor.replace(40, 4, reinterpret_cast<const char*>(&nan), 4);
            }),
            Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) { f.counted = 1'000'000; }), Code::kInvalidArgument);
}

TEST_F(Refusals, AGradientOfAnotherShapeOrThatIsNotFinite) {
  world_.Turn("device-0");
  request_ = *protocol::ParseTensorFrame(world_.Next("device-0"));
  ASSERT_EQ(request_.kind, FrameKind::kTailGradient);
  EXPECT_EQ(With([](TensorFrame& f) {
              f.rows -= 1;
              f.tensor.resize(f.tokens() * f.width * 4);
            }),
            Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) {
              const float infinite = std::numeric_limits<float>::infinity();
              f.tensor.replace(0, 4, reinterpret_cast<const char*>(&infinite), 4);
            }),
            Code::kInvalidArgument);
}

TEST_F(Refusals, SessionsOfOthersAndSessionsThatAreNot) {
  EXPECT_EQ(Refused(request_, "device-1"), Code::kAborted);
  EXPECT_EQ(Refused(request_, "stranger"), Code::kAborted);
  EXPECT_EQ(Refused(request_, "../../etc"), Code::kInvalidArgument);
  EXPECT_EQ(With([](TensorFrame& f) { f.session += 2; }), Code::kAborted);
}

TEST_F(Refusals, AHalfOfAnotherPlanOrModel) {
  ControlFrame hello;
  hello.text = std::string(64, '0');
  EXPECT_EQ(CodeOf(world_.server->Handle("device-2", Serialize(hello))), Code::kFailedPrecondition);
}

TEST_F(Refusals, UpdatesBeforeTheirTimeOrThatNobodyCanHaveTrained) {
  ControlFrame update;
  update.kind = FrameKind::kUpdate;
  update.session = request_.session;
  update.examples = 9;
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", Serialize(update))), Code::kFailedPrecondition);
  for (int i = 0; i < 4; ++i) world_.Turn("device-0");
  ASSERT_EQ(*protocol::KindOf(world_.Next("device-0")), FrameKind::kUpdate);
  const ControlFrame good = *protocol::ParseControlFrame(world_.Next("device-0"));
  ControlFrame bad = good;
  bad.tensors.erase(bad.tensors.begin());
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", Serialize(bad))), Code::kInvalidArgument);
  bad = good;
  bad.examples = 0;
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", Serialize(bad))), Code::kInvalidArgument);
  bad = good;
  auto& [key, tensor] = *bad.tensors.begin();
  std::vector<float> values(static_cast<size_t>(tensor.numel()), 1e9F);
  tensor = Tensor::FromFloats(tensor.shape(), values);
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", Serialize(bad))), Code::kInvalidArgument);
}

TEST_F(Refusals, BytesThatAreNoFrame) {
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", "")), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(world_.server->Handle("device-0", "GET / HTTP/1.1")), Code::kInvalidArgument);
  const std::string good = world_.Next("device-0");
  for (size_t cut = 0; cut < good.size(); cut += 111) {
    EXPECT_EQ(CodeOf(world_.server->Handle("device-0", good.substr(0, cut))), Code::kInvalidArgument);
  }
  TensorFrame answer = request_;
  answer.kind = FrameKind::kHidden;
  EXPECT_EQ(Refused(answer), Code::kInvalidArgument);
}

TEST(SplitLimits, MoreDevicesThanThePlanLetsInWaitAndAreLetInLater) {
  SplitWorld world(Settings{{"devices_per_round", "3"}, {"split.max_sessions", "2"}, {"split.server", "per_device"}});
  world.Turn("device-0");
  world.Turn("device-1");
  EXPECT_EQ(world.server->sessions(), 2U);
  const std::string answer = world.server->Handle("device-2", world.Next("device-2"));
  EXPECT_EQ(CodeOf(answer), Code::kResourceExhausted);
  EXPECT_GT(protocol::ParseControlFrame(answer)->retry_ms, 0U);
  world.Interleaved();
  EXPECT_TRUE(world.server->done());
}

TEST(SplitLimits, ADeviceThatStaysAwayLosesItsPlaceToAnotherAfterATime) {
  SplitWorld world(Settings{{"split.session_timeout_s", "60"}, {"split.server", "per_device"}});
  world.AddDevice("device-9");
  for (const char* name : {"device-0", "device-1"}) world.Turn(name);
  const auto hello = [&world](double seconds) {
    const std::string answer =
        world.server->Handle("device-9", world.devices.at("device-9")->Hello(), Seconds(seconds));
    return protocol::ParseControlFrame(answer)->session != 0;
  };
  EXPECT_FALSE(hello(59));
  // Device 1 is heard of again; device 0 is not.
  (void)world.server->Handle("device-1", world.Next("device-1"), Seconds(59));
  EXPECT_TRUE(hello(61));
  EXPECT_EQ(world.server->sessions(), 2U);
  EXPECT_EQ(CodeOf(world.server->Handle("device-0", world.Next("device-0"), Seconds(61))), Code::kAborted);
  EXPECT_EQ(CodeOf(world.server->Handle("device-1", world.Next("device-1"), Seconds(61))), Code::kOk);
}

TEST(SplitLimits, TargetsThatTheHeadDoesNotKnowAreRefused) {
  SplitWorld world(Settings{{"split.topology", "label_sharing"}});
  world.Turn("device-0");
  const TensorFrame good = *protocol::ParseTensorFrame(world.Next("device-0"));
  ASSERT_FALSE(good.targets.empty());
  for (const int32_t target : {-1, 320, 1 << 30, -101}) {
    TensorFrame bad = good;
    bad.targets[0] = target;
    EXPECT_EQ(CodeOf(world.server->Handle("device-0", Serialize(bad))), Code::kInvalidArgument) << target;
  }
  TensorFrame none = good;
  none.targets.clear();
  EXPECT_EQ(CodeOf(world.server->Handle("device-0", Serialize(none))), Code::kInvalidArgument);
  TensorFrame fewer = good;
  fewer.counted -= 1;
  EXPECT_EQ(CodeOf(world.server->Handle("device-0", Serialize(fewer))), Code::kInvalidArgument);
  world.Interleaved();
  EXPECT_TRUE(world.server->done());
}

TEST(SplitLimits, LabelsDoNotLeaveADeviceThatHasTheHead) {
  SplitWorld world;
  world.Turn("device-0");
  for (int i = 0; i < 6; ++i) {
    const auto frame = protocol::ParseTensorFrame(world.Next("device-0"));
    ASSERT_TRUE(frame.ok());
    EXPECT_TRUE(frame->targets.empty() && frame->grades.empty());
    world.Turn("device-0");
  }
}

}  // namespace
}  // namespace heddle
