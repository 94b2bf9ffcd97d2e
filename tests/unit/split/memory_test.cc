// The split server's memory: the estimate beside what LibTorch hands out, and devices that wait because of it.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gmock/gmock.h>
#include <torch/version.h>

#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

// Bytes of tensors on the processor that were made while it counted and are still there.
class TensorCount final : public c10::MemoryReportingInfoBase {
 public:
#if TORCH_VERSION_MAJOR >= 2
  using Total = size_t;
#else
  using Total = int64_t;
#endif
  void reportMemoryUsage(void*, int64_t size, Total, Total, c10::Device) override {
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t now() const { return now_; }
  int64_t TakePeak() { return std::exchange(peak_, now_); }

 private:
  int64_t now_ = 0, peak_ = 0;
};

template <typename Work>
auto Counted(const std::shared_ptr<TensorCount>& count, Work work) {
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, count);
  return work();
}

struct Shape {
  const char* name;
  Settings settings;
};
const std::vector<Shape> kShapes = {
    {"shared", {}},
    {"per device", {{"split.server", "per_device"}}},
    {"label sharing", {{"split.topology", "label_sharing"}, {"split.server", "per_device"}}},
    {"pipeline", {{"split.pipeline", "3"}, {"train.gradient_accumulation_steps", "4"}}},
    {"no dropout", {{"server.lora_dropout", "0"}, {"split.server", "per_device"}}},
    {"full", {{"server.peft_type", "FULL"}, {"split.server", "per_device"}}},
    {"long rows", {{"train.sequence_length", "48"}, {"train.batch_size", "8"}}}};

// What one device's session takes of LibTorch's memory at most, its passes included; frames are no tensors.
int64_t MeasuredSession(SplitWorld& world) {
  const auto count = std::make_shared<TensorCount>();
  using Kind = client::SplitDevice::Action::Kind;
  std::deque<std::string> frames = {world.devices.at("device-0")->Hello()};
  while (!frames.empty()) {
    const std::string frame = std::exchange(frames.front(), "");
    frames.pop_front();
    if (*protocol::KindOf(frame) == protocol::FrameKind::kUpdate) break;
    const std::string answer = Counted(count, [&] { return world.server->Handle("device-0", frame); });
    auto action = world.devices.at("device-0")->Take(answer);
    while (action.ok() && action->kind == Kind::kSend) {
      frames.push_back(action->frame);
      action = world.devices.at("device-0")->Next();
    }
    EXPECT_TRUE(action.ok()) << action.status();
    if (!action.ok()) break;
  }
  return count->TakePeak();
}

TEST(SplitMemoryEstimate, IsBetweenOnceAndThriceWhatASessionTakesOfTensors) {
  for (const Shape& shape : kShapes) {
    SplitWorld world(With(shape.settings, {{"server.optimizer", "AdamW"}}));
    const coordinator::SplitMemory& memory = world.server->memory();
    const auto measured = static_cast<double>(MeasuredSession(world));
    const auto estimated = static_cast<double>(memory.session + memory.pass);
    RecordProperty(shape.name, std::to_string(estimated / measured));
    EXPECT_GE(estimated, measured) << shape.name;
    EXPECT_LE(estimated, 3 * measured) << shape.name;
  }
}

// In MiB, exactly.
std::string Megabytes(uint64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.20f", static_cast<double>(bytes) / (1 << 20));
  return text;
}

const Settings kThree = {{"devices_per_round", "3"}, {"split.server", "per_device"}};

Settings LimitedTo(uint64_t sessions, uint64_t updates) {
  const coordinator::SplitMemory memory = SplitWorld(kThree).server->memory();
  return With(kThree, {{"split.memory_limit_mb", Megabytes(memory.With(sessions, updates))}});
}

TEST(SplitMemoryLimit, ADeviceBeyondItIsTurnedAwayAndLetInWhenAnotherHasLeft) {
  SplitWorld unlimited(kThree), world(LimitedTo(2, 0));
  unlimited.Interleaved();
  world.Turn("device-0");
  world.Turn("device-1");
  const std::string answer = world.server->Handle("device-2", world.Next("device-2"));
  const auto refusal = protocol::ParseControlFrame(answer);
  ASSERT_TRUE(refusal.ok() && refusal->kind == protocol::FrameKind::kRefusal);
  EXPECT_EQ(protocol::StatusOf(*refusal).code(), Code::kResourceExhausted);
  EXPECT_THAT(protocol::StatusOf(*refusal).message(), testing::HasSubstr("split.memory_limit_mb"));
  EXPECT_GT(refusal->retry_ms, 0U);
  EXPECT_EQ(world.server->sessions(), 2U);
  size_t most = 0;
  world.Interleaved([&](const std::string&) { most = std::max(most, world.server->sessions()); });
  EXPECT_EQ(most, 2U);
  EXPECT_TRUE(world.waited);
  ExpectSameBits(world.Outcome(), unlimited.Outcome());
}

TEST(SplitMemoryLimit, UpdatesThatWaitForTheRoundsEndCount) {
  SplitWorld unlimited(kThree), world(LimitedTo(1, 2));
  unlimited.Interleaved();
  world.Interleaved([&](const std::string&) { EXPECT_LE(world.server->sessions(), 1U); });
  ExpectSameBits(world.Outcome(), unlimited.Outcome());
}

TEST(SplitMemoryLimit, OneThatWouldNotLetARoundEndIsRefusedAtTheStart) {
  for (const char* mode : {"per_device", "shared", "parallel", "sequential"}) {
    SCOPED_TRACE(mode);
    SplitWorld world(With(kThree, {{"split.server", mode}}));
    protocol::SplitPlan plan = world.plan;
    const uint64_t needed = world.server->memory().With(1, 2);
    for (const bool enough : {true, false}) {
      plan.memory_limit_mb = static_cast<double>(enough ? needed : needed - 1) / (1 << 20);
      auto options = coordinator::PrepareSplitServer(plan, world.folder() / (enough ? "enough" : "less"));
      ASSERT_TRUE(options.ok());
      const Status status = coordinator::SplitServer::Make(*std::move(options)).status();
      EXPECT_EQ(status.code(), enough ? Code::kOk : Code::kInvalidArgument) << status;
      if (enough) continue;
      EXPECT_THAT(status.message(), testing::HasSubstr("split.memory_limit_mb"));
    }
  }
}

// The smallest limit that a run may begin with has room for one session, and no second is let in.
TEST(SplitMemoryLimit, HoldsWhereDevicesTakeTurns) {
  for (const char* mode : {"shared", "sequential"}) {
    SCOPED_TRACE(mode);
    const Settings three = With(kThree, {{"split.server", mode}});
    const coordinator::SplitMemory memory = SplitWorld(three).server->memory();
    SplitWorld unlimited(three), world(With(three, {{"split.memory_limit_mb", Megabytes(memory.With(1, 2))}}));
    unlimited.OneAfterTheOther();
    world.Turn("device-0");
    const auto answer = protocol::ParseControlFrame(world.server->Handle("device-1", world.Next("device-1")));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->session, 0U);
    EXPECT_GT(answer->retry_ms, 0U);
    // In sequence it is not its turn yet, whatever there is room for.
    const bool refused = answer->kind == protocol::FrameKind::kRefusal;
    EXPECT_EQ(refused, std::string(mode) == "shared");
    EXPECT_EQ(refused ? protocol::StatusOf(*answer).code() : Code::kResourceExhausted, Code::kResourceExhausted);
    world.OneAfterTheOther([&](const std::string&) { EXPECT_LE(world.server->sessions(), 1U); });
    ExpectSameBits(world.Outcome(), unlimited.Outcome());
  }
}

// Three devices for whom there is room one at a time come in three turns of an hour, and no device has more than one.
TEST(SplitMemoryLimit, ARoundHasTheTimeOfTheTurnsThatItMakes) {
  const auto hello = [](SplitWorld& world, const char* name, double seconds) {
    const std::string answer = world.server->Handle(name, world.devices.at(name)->Hello(), Seconds(seconds));
    const auto welcome = protocol::ParseControlFrame(answer);
    return welcome.ok() && welcome->kind == protocol::FrameKind::kWelcome && welcome->session != 0;
  };
  SplitWorld world(LimitedTo(1, 2));
  for (world.waited = false; !world.waited && world.Turn("device-0");) {
  }
  for (double time = 500; time < 3 * 3600; time += 500) {  // it is heard of, and never done
    EXPECT_TRUE(hello(world, "device-1", time));
    EXPECT_FALSE(world.server->Advance(Seconds(time)).computed) << time;
  }
  EXPECT_EQ(world.server->round(), 1U);
  (void)world.server->Advance(Seconds(3 * 3600));
  EXPECT_EQ(world.server->round(), 2U);
  // A time that the plan gives is the round's, and a third of it a turn's.
  SplitWorld given(With(LimitedTo(1, 2), {{"split.round_timeout_s", "300"}}));
  EXPECT_TRUE(hello(given, "device-0", 0));
  EXPECT_FALSE(hello(given, "device-1", 99));
  EXPECT_TRUE(hello(given, "device-1", 101));
}

// A frame that is larger than the plan is no reason to come again, however full the server is.
TEST(SplitMemoryLimit, ARefusalOfAFrameSaysNoTimeToComeBack) {
  SplitWorld world(Settings{{"split.max_sessions", "1"}, {"split.server", "per_device"}});
  world.Turn("device-0");
  auto frame = *protocol::ParseTensorFrame(world.Next("device-0"));
  frame.length *= 2;
  frame.tensor += frame.tensor;
  const auto refusal = protocol::ParseControlFrame(world.server->Handle("device-0", Serialize(frame)));
  ASSERT_TRUE(refusal.ok());
  EXPECT_EQ(protocol::StatusOf(*refusal).code(), Code::kResourceExhausted);
  EXPECT_EQ(refusal->retry_ms, 0U);
}

}  // namespace
}  // namespace heddle
