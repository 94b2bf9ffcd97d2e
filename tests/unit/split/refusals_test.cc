// What no device may send: a typed refusal, and the others go on as if nothing had been.
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/model/tiny_encoder.h"
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
              f.width *= 2;
              f.length /= 2;
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
  tensor = heddle::Tensor::FromFloats(tensor.shape(), values);
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

// Device 0 does its round; device 1 says hello, sends a frame, and is not heard of again.
void OneOfTwo(SplitWorld& world) {
  world.Turn("device-1");
  world.Turn("device-1");
  for (world.waited = false; !world.waited && world.Turn("device-0");) {
  }
}

TEST(SplitLimits, ARoundEndsWithoutADeviceThatIsGone) {
  const Settings settings = {{"split.session_timeout_s", "60"}, {"split.server", "per_device"}, {"rounds", "2"}};
  SplitWorld world(settings), alone(With(settings, {{"devices_per_round", "1"}, {"rounds", "1"}}));
  OneOfTwo(world);
  const auto wake = world.server->Advance(Seconds(59)).wake;
  ASSERT_TRUE(wake.has_value());
  EXPECT_EQ(*wake, Seconds(60));
  EXPECT_EQ(world.server->round(), 1U);
  EXPECT_TRUE(world.server->Advance(Seconds(60)).computed);
  EXPECT_EQ(world.server->round(), 2U);
  alone.Interleaved();
  // The sums have a place for one update more.
  EXPECT_LT(Distance(world.server->device_adapter(), alone.server->device_adapter()), 1e-6);
  EXPECT_LT(Distance(world.server->server_adapter(), alone.server->server_adapter()), 1e-6);
  // Back again, it is told to begin anew, and has its part in the next round.
  EXPECT_EQ(CodeOf(world.server->Handle("device-1", world.Next("device-1"), Seconds(61))), Code::kAborted);
  world.Reconnect("device-1");
  world.Reconnect("device-0");
  world.Interleaved();
  EXPECT_TRUE(world.server->done());
  EXPECT_EQ(world.devices.at("device-1")->stats().round, 2U);
}

TEST(SplitLimits, ARoundWaitsForADeviceThatIsHeardOfAndForOneThatWouldTakeAPlace) {
  SplitWorld world(Settings{{"split.session_timeout_s", "60"}, {"split.server", "per_device"}});
  OneOfTwo(world);
  (void)world.server->Handle("device-1", world.Next("device-1"), Seconds(59));
  EXPECT_FALSE(world.server->Advance(Seconds(100)).computed);
  // Another one asks; the place of device 1 is free for it from 119 on.
  world.AddDevice("device-9");
  world.server->Handle("device-9", world.Next("device-9"), Seconds(118));
  EXPECT_FALSE(world.server->Advance(Seconds(130)).computed);
  EXPECT_EQ(world.server->round(), 1U);
  const std::string answer = world.server->Handle("device-9", world.Next("device-9"), Seconds(131));
  EXPECT_NE(protocol::ParseControlFrame(answer)->session, 0U);
}

// 0 is never, at the round's end and where another asks for the place.
TEST(SplitLimits, WithoutASessionTimeoutASilentDeviceKeepsItsPlace) {
  SplitWorld world(
      Settings{{"split.session_timeout_s", "0"}, {"split.round_timeout_s", "0"}, {"split.server", "per_device"}});
  OneOfTwo(world);
  world.AddDevice("device-9");
  for (const double time : {1.0, 1e6}) {
    const std::string answer = world.server->Handle("device-9", world.Next("device-9"), Seconds(time));
    EXPECT_EQ(protocol::ParseControlFrame(answer)->session, 0U) << time;
    EXPECT_FALSE(world.server->Advance(Seconds(time)).computed) << time;
    EXPECT_EQ(world.server->round(), 1U) << time;
  }
  EXPECT_EQ(CodeOf(world.server->Handle("device-1", world.Next("device-1"), Seconds(1e6))), Code::kOk);
}

TEST(SplitLimits, ADeviceThatIsHeardOfAndNeverDoneDoesNotHoldUpARoundForever) {
  for (const char* timeout : {"", "0"}) {  // an hour, and never
    Settings settings = {{"split.session_timeout_s", "60"}, {"split.server", "per_device"}};
    if (*timeout != 0) settings["split.round_timeout_s"] = timeout;
    SplitWorld world(settings);
    OneOfTwo(world);
    for (double time = 59; time < 3600; time += 59) {
      (void)world.server->Handle("device-1", world.devices.at("device-1")->Hello(), Seconds(time));
      EXPECT_FALSE(world.server->Advance(Seconds(time)).computed) << time;
    }
    (void)world.server->Handle("device-1", world.devices.at("device-1")->Hello(), Seconds(3600));
    (void)world.server->Advance(Seconds(3600));
    EXPECT_EQ(world.server->round(), *timeout == 0 ? 2U : 1U);
  }
}

// The only place goes to another that asks for it once the device has had its share of the round's time: here a half.
TEST(SplitLimits, ADeviceThatIsNeverDoneLosesTheOnlyPlace) {
  for (const Settings& mode :
       {Settings{{"split.server", "sequential"}}, Settings{{"split.server", "shared"}, {"split.max_sessions", "1"}}}) {
    SplitWorld world(With(mode, {{"split.round_timeout_s", "100"}, {"rounds", "1"}}));
    const auto hello = [&world](const std::string& name, double seconds) {
      const std::string answer = world.server->Handle(name, world.devices.at(name)->Hello(), Seconds(seconds));
      const auto welcome = protocol::ParseControlFrame(answer);
      return welcome->kind == FrameKind::kWelcome && welcome->session != 0;
    };
    world.Turn("device-0");
    const std::string activations = world.Next("device-0");
    EXPECT_EQ(CodeOf(world.server->Handle("device-0", activations, Seconds(20))), Code::kOk);
    EXPECT_FALSE(hello("device-1", 30));
    // To begin anew is no way to have more of it.
    ControlFrame anew = *protocol::ParseControlFrame(world.devices.at("device-0")->Hello());
    anew.session = 0;
    const std::string again = world.server->Handle("device-0", Serialize(anew), Seconds(40));
    EXPECT_NE(protocol::ParseControlFrame(again)->session, 0U);
    EXPECT_FALSE(hello("device-1", 49));
    EXPECT_TRUE(hello("device-1", 51));
    EXPECT_EQ(world.server->sessions(), 1U);
    EXPECT_EQ(CodeOf(world.server->Handle("device-0", activations, Seconds(52))), Code::kAborted);
    for (const std::string& name : world.Names()) world.Reconnect(name);
    world.OneAfterTheOther();
    EXPECT_TRUE(world.server->done());
  }
}

// Of several that had their time, one makes room for one: the others are nearly done.
TEST(SplitLimits, OneDeviceMakesRoomForOne) {
  SplitWorld world(Settings{{"split.server", "shared"},
                            {"split.max_sessions", "2"},
                            {"devices_per_round", "3"},
                            {"split.round_timeout_s", "200"}});
  const auto session = [&world](const std::string& name, double seconds) {
    const std::string answer = world.server->Handle(name, world.devices.at(name)->Hello(), Seconds(seconds));
    const auto welcome = protocol::ParseControlFrame(answer);
    return welcome->kind == FrameKind::kWelcome ? welcome->session : 0;
  };
  const auto first = session("device-0", 1), second = session("device-1", 2);
  ASSERT_NE(first, 0U);
  ASSERT_NE(second, 0U);
  EXPECT_EQ(session("device-2", 90), 0U);
  EXPECT_NE(session("device-2", 120), 0U) << "both had their half of the round's time";
  EXPECT_EQ(world.server->sessions(), 2U);
  ControlFrame again = *protocol::ParseControlFrame(world.devices.at("device-1")->Hello());
  again.session = second;
  const std::string answer = world.server->Handle("device-1", Serialize(again), Seconds(121));
  EXPECT_EQ(protocol::ParseControlFrame(answer)->session, second) << "the later one goes on";
}

// The time of a round is that of devices that are there.
TEST(SplitLimits, ADeviceThatCameAndWentDoesNotBeginTheTimeOfTheNext) {
  SplitWorld world(
      Settings{{"split.server", "per_device"}, {"split.round_timeout_s", "100"}, {"split.session_timeout_s", "30"}});
  (void)world.server->Handle("device-0", world.devices.at("device-0")->Hello(), Seconds(0));
  client::SplitDevice& device = *world.devices.at("device-1");
  std::deque<std::string> frames = {device.Hello()};
  while (!frames.empty()) {
    auto action = device.Take(world.server->Handle("device-1", frames.front(), Seconds(500)));
    frames.pop_front();
    ASSERT_TRUE(action.ok()) << action.status();
    while (action->kind == client::SplitDevice::Action::Kind::kSend) {
      frames.push_back(action->frame);
      action = device.Next();
    }
  }
  (void)world.server->Advance(Seconds(505));
  EXPECT_EQ(world.server->round(), 1U) << "it has been under way for five seconds";
  (void)world.server->Advance(Seconds(601));
  EXPECT_EQ(world.server->round(), 2U);
}

TEST(SplitLimits, ARoundEndsAtItsDeadlineWithTheUpdatesThatAreThere) {
  const Settings settings = {{"split.round_timeout_s", "100"}, {"devices_per_round", "3"}, {"rounds", "1"}};
  for (const char* least : {"1", "2"}) {
    SplitWorld world(With(settings, {{"split.min_devices", least}}));
    OneOfTwo(world);
    (void)world.server->Handle("device-1", world.Next("device-1"), Seconds(99));
    EXPECT_FALSE(world.server->Advance(Seconds(99)).computed);
    (void)world.server->Advance(Seconds(101));
    EXPECT_EQ(world.server->done(), std::string(least) == "1");
    world.StartServer();  // what ended has ended, what has not goes on
    EXPECT_EQ(world.server->done(), std::string(least) == "1");
  }
  EXPECT_FALSE(protocol::SplitPlan::LoadText(kPlan, "", "plan", {{"split.min_devices", "3"}}).ok());
}

TEST(SplitStrategies, RememberFromRoundToRoundAlsoThroughARestart) {
  const Settings momentum = {{"strategy.name", "FedAvgM"}, {"split.server", "per_device"}, {"rounds", "3"}};
  SplitWorld world(momentum), restarted(momentum), plain(With(momentum, {{"strategy.name", "FedAvg"}}));
  world.OneAfterTheOther();
  plain.OneAfterTheOther();
  uint32_t round = 1;
  restarted.OneAfterTheOther([&](const std::string&) {
    if (restarted.server->round() == round) return;
    round = restarted.server->round();
    restarted.StartServer();
    for (const std::string& name : restarted.Names()) restarted.Reconnect(name);
  });
  EXPECT_EQ(round, 4U);
  ExpectSameBits(world.Outcome(), restarted.Outcome());
  // Momentum is 0.9 of the last step and this one: after three rounds the parts have gone further.
  const auto length = [](const SplitWorld& one) {
    double sum = 0;
    for (const auto& [key, tensor] : one.server->server_adapter()) {
      if (!key.ends_with("lora_B.weight")) continue;
      for (const float value : tensor.values<float>()) sum += double{value} * value;
    }
    return std::sqrt(sum);
  };
  EXPECT_GT(length(world), 1.2 * length(plain));
}

TEST(SplitStrategies, ThatAskMoreOfDevicesAreRefusedBeforeOneComes) {
  const auto made = [](const char* name, const Settings& more = {}) {
    SplitWorld world;
    auto plan = protocol::SplitPlan::LoadText(kPlan, world.folder(), "plan", With({{"strategy.name", name}}, more));
    if (!plan.ok()) return plan.status();
    auto options = coordinator::PrepareSplitServer(*plan, world.folder() / "other");
    return coordinator::SplitServer::Make(*std::move(options)).status();
  };
  for (const char* name : {"NoSuchMethod", "FLoRA", "FFA-LoRA", "FedSA-LoRA", "RoLoRA", "HetLoRA", "SCAFFOLD",
                           "FedProx", "FedDyn", "FedNova", "FedAdapter", "FedKSeed", "MultiKrum"}) {
    EXPECT_EQ(made(name).code(), Code::kInvalidArgument) << name << ": " << made(name);
  }
  for (const char* name : {"FedAvg", "FedAdam", "FedYogi", "CoordinateMedian", "FlexLoRA"}) {
    EXPECT_TRUE(made(name).ok()) << name << ": " << made(name);
  }
  EXPECT_EQ(made("FedAdam", {{"split.server", "sequential"}}).code(), Code::kInvalidArgument);
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

// Packed rows are told apart in a causal model only.
TEST(SplitLimits, SegmentsForAnEncoderAreRefused) {
  const TempDir base;
  model::WriteMaskedFolder(base.path() / "bert");
  for (const char* batch : {"1", "2"}) {  // alone, and where passes may be of several devices
    SplitWorld world(Settings{{"base_model", (base.path() / "bert").string()},
                              {"split.cut", "0"},
                              {"device.peft_type", "NONE"},
                              {"split.server", "per_device"},
                              {"split.server_batch", batch},
                              {"rounds", "1"}});
    world.Turn("device-0");
    TensorFrame packed = *protocol::ParseTensorFrame(world.Next("device-0"));
    packed.segments.assign(packed.tokens(), 0);
    EXPECT_EQ(CodeOf(world.server->Handle("device-0", Serialize(packed))), Code::kInvalidArgument);
    world.Interleaved();
    EXPECT_TRUE(world.server->done());
  }
}

// What a listener lets a device send is what the plan lets it have, and hardly more.
TEST(SplitLimits, TheLargestFrameFollowsFromThePlan) {
  for (const Settings& settings :
       {Settings{}, Settings{{"split.encoding", "int8"}, {"split.gradient_encoding", "bf16"}},
        Settings{{"split.topology", "label_sharing"}}, Settings{{"train.batch_size", "12"}},
        Settings{{"device.peft_type", "FULL"}}, Settings{{"device.peft_type", "NONE"}}}) {
    SplitWorld world(With(settings, {{"rounds", "1"}}));
    size_t largest = 0;
    std::string activations, update;
    world.Interleaved([&](const std::string& name) {
      const std::string frame = world.sent.substr(name.size() + 1);
      largest = std::max(largest, frame.size());
      const FrameKind kind = *protocol::KindOf(frame);
      if (kind == FrameKind::kActivations) activations = frame;
      if (kind == FrameKind::kUpdate) update = frame;
    });
    const uint64_t bound = world.server->max_frame_bytes(), tokens = world.plan.batch_size * 16;
    EXPECT_LE(largest, bound);
    // Beside what was sent: lists of seven bytes a token, a text, and longer offsets in the head of an update.
    EXPECT_LE(bound, largest + 7 * tokens + protocol::kMaxSplitTextBytes + 48 * world.server->device_adapter().size());
    const auto refused = [&](std::string frame, size_t size) {
      frame.resize(size);
      EXPECT_EQ(CodeOf(world.server->Handle("device-0", frame)), Code::kResourceExhausted) << size;
    };
    refused(activations, bound + 1);
    refused(update, bound + 1);
    ControlFrame hello;
    refused(Serialize(hello), protocol::kMaxSplitControlBytes + 1);
  }
}

TEST(SplitLimits, APlanOfFramesThatNoneCanBeIsRefusedBeforeADeviceComes) {
  SplitWorld world;
  auto plan = protocol::SplitPlan::LoadText(kPlan, world.folder(), "plan", {{"train.batch_size", "65536"}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  auto options = coordinator::PrepareSplitServer(*plan, world.folder() / "other");
  ASSERT_TRUE(options.ok()) << options.status();
  auto part = std::make_shared<model::BaseWeights>(*options->part);
  part->spec.hidden_size = 1024;  // what is to be held against the limits is worked out before anything is made of it
  options->part = part;
  const Status status = coordinator::SplitServer::Make(*std::move(options)).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("1073741824 numbers"), std::string::npos) << status;
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
