// Several devices' micro-batches in one pass of the server; steps of all devices together; one device after the other.
#include <gtest/gtest.h>

#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

// SGD: AdamW's first steps make a sign of a gradient, which rounding may turn.
const Settings kFour = {{"devices_per_round", "4"},      {"device.optimizer", "SGD"},
                        {"server.optimizer", "SGD"},     {"device.learning_rate", "0.5"},
                        {"server.learning_rate", "0.5"}, {"split.server", "per_device"}};

class Batching : public testing::TestWithParam<Settings> {};

TEST_P(Batching, GivesEachDeviceWhatItGetsAloneUpToRounding) {
  const Settings settings = With(kFour, GetParam());
  SplitWorld alone(settings), together(With(settings, {{"split.server_batch", "4"}}));
  alone.AllAtOnce();
  together.AllAtOnce();
  EXPECT_LT(RelativeDistance(alone.Outcome(), together.Outcome()), 2e-4);
  // All four go through the server at once, in every step.
  EXPECT_EQ(together.server->passes() * 4, alone.server->passes());
}

TEST_P(Batching, PassesOfOneHaveTheSameBitsWhoeverElseIsThere) {
  const Settings settings = With(kFour, GetParam());
  SplitWorld at_once(settings), in_turns(settings);
  at_once.AllAtOnce();
  in_turns.OneAfterTheOther();
  ExpectSameBits(at_once.Outcome(), in_turns.Outcome());
}

INSTANTIATE_TEST_SUITE_P(All, Batching,
                         testing::Values(Settings{}, Settings{{"split.topology", "label_sharing"}},
                                         Settings{{"server.peft_type", "NONE"}},
                                         Settings{{"train.gradient_accumulation_steps", "3"}, {"split.pipeline", "2"}},
                                         Settings{{"split.cut", "0"}, {"device.peft_type", "NONE"}}),
                         [](const auto& info) { return "Settings" + std::to_string(info.index); });

TEST(SplitBatching, ADeviceThatStopsInTheMiddleHoldsUpNobody) {
  // Device 3 sends activations, which go through the server with the others', and is never heard of again.
  const Settings settings = With(
      kFour, {{"devices_per_round", "5"}, {"rounds", "1"}, {"split.server_batch", "8"}, {"split.min_devices", "5"}});
  SplitWorld world(settings), undisturbed(settings);
  int heard = 0;
  world.AllAtOnce([&heard](const std::string& name) { return name == "device-3" && ++heard > 2; });
  EXPECT_FALSE(world.server->done());
  for (const auto& [name, device] : world.devices) {
    EXPECT_EQ(device->stats().steps, name == "device-3" ? 0U : world.plan.local_steps) << name;
  }
  // It was waited for once, and in no pass after that.
  EXPECT_EQ(world.now, Seconds(world.plan.server_wait_ms / 1000));
  // When it comes back it goes on from where it was, and the round ends as it would have.
  world.AllAtOnce();
  undisturbed.AllAtOnce();
  EXPECT_LT(RelativeDistance(world.Outcome(), undisturbed.Outcome()), 2e-4);
}

TEST(SplitBatching, WhoHasWaitedLongestIsFirst) {
  SplitWorld world(With(kFour, {{"split.server_batch", "2"}, {"split.server_wait_ms", "0"}}));
  std::vector<std::string> order;
  uint64_t ticket = 0;
  std::map<uint64_t, std::string> owners;
  for (const std::string& name : world.Names()) world.Turn(name);  // hello
  for (const char* name : {"device-2", "device-0", "device-3", "device-1"}) {
    owners[++ticket] = name;
    world.server->Submit(ticket, name, world.Next(name), Seconds(static_cast<double>(ticket)));
  }
  while (world.server->Advance(Seconds(10)).computed) {
    for (const auto& reply : world.server->TakeReplies()) order.push_back(owners.at(reply.ticket));
  }
  EXPECT_EQ(order, (std::vector<std::string>{"device-2", "device-0", "device-3", "device-1"}));
  EXPECT_EQ(world.server->passes(), 2U);
}

TEST(SplitBatching, AMistakeOfOneIsNotTheOthers) {
  SplitWorld world(With(kFour, {{"split.server_batch", "4"}}));
  for (const std::string& name : world.Names()) world.Turn(name);
  uint64_t ticket = 0;
  for (const std::string& name : world.Names()) {
    auto frame = *protocol::ParseTensorFrame(world.Next(name));
    if (name == "device-1") frame.tensor.replace(0, 4, std::string(4, '\xff'));  // NaN
    world.server->Submit(++ticket, name, Serialize(frame), {});
  }
  EXPECT_TRUE(world.server->Advance({}).computed);
  const auto replies = world.server->TakeReplies();
  ASSERT_EQ(replies.size(), 4U);
  for (const auto& reply : replies) {
    EXPECT_EQ(*protocol::KindOf(reply.frame),
              reply.ticket == 2 ? protocol::FrameKind::kRefusal : protocol::FrameKind::kHidden);
  }
}

TEST(SplitBatching, ADeviceMayNotHaveMoreOnTheWayThanThePlanSays) {
  SplitWorld world(With(kFour, {{"train.gradient_accumulation_steps", "4"}, {"split.pipeline", "2"}}));
  world.Turn("device-0");
  const auto first = *protocol::ParseTensorFrame(world.Next("device-0"));
  const auto submit = [&world, &first](uint32_t sequence) {
    protocol::TensorFrame frame = first;
    const auto place = world.plan.schedule().At(sequence);
    frame.kind = place.request;
    frame.sequence = sequence;
    frame.micro = place.micro;
    world.server->Submit(sequence, "device-0", Serialize(frame), {});
    return world.server->TakeReplies().size();
  };
  for (uint32_t sequence = 1; sequence <= 4; ++sequence) EXPECT_EQ(submit(sequence), 0U);
  EXPECT_EQ(submit(5), 1U);
}

// ---- the other modes ----

TEST(SplitParallel, StepsOfAllAreOneAndTheOrderOfFramesDoesNotCount) {
  for (const char* micros : {"1", "2"}) {
    const Settings settings = With(
        kFour,
        {{"split.server", "parallel"}, {"split.checkpoint_every", "2"}, {"train.gradient_accumulation_steps", micros}});
    SplitWorld world(settings), backwards(settings);
    world.AllAtOnce();
    // The same devices, of which the last is heard of late in every turn.
    int turn = 0;
    backwards.AllAtOnce([&turn](const std::string& name) { return name < "device-2" && ++turn % 3 != 0; });
    ExpectSameBits(world.Outcome(), backwards.Outcome());
    EXPECT_EQ(world.now, Duration{}) << "nobody had to be waited for in vain";
  }
}

TEST(SplitParallel, OfTwoDevicesWithTheSameDataTheServerLearnsWhatItLearnsOfOne) {
  // The mean of two equal gradients is that gradient. Data and dropout follow from the session's seed, and so from the
  // device's name; without dropout and with one batch of data both see the same.
  const Settings settings = {{"split.server", "parallel"}, {"device.peft_type", "NONE"},
                             {"server.lora_dropout", "0"}, {"rounds", "1"},
                             {"train.local_steps", "3"},   {"server.optimizer", "SGD"},
                             {"train.batch_size", "1"},    {"server.learning_rate", "0.5"}};
  const auto outcome = [&settings](const char* devices) {
    SplitWorld world(With(settings, {{"devices_per_round", devices}}));
    const std::string text = model::SampleText(40, 7);
    for (const std::string& name : world.Names()) {
      model::Require(WriteFileAtomically(world.folder() / (name + ".txt"), text));
      world.AddDevice(name);
    }
    world.AllAtOnce();
    return world.Outcome();
  };
  EXPECT_LT(RelativeDistance(outcome("1"), outcome("2")), 1e-5);
}

TEST(SplitParallel, AStepGoesOnWithoutADeviceThatDoesNotComeInTime) {
  SplitWorld world(
      With(kFour,
           {{"split.server", "parallel"}, {"rounds", "1"}, {"split.step_timeout_s", "5"}, {"split.min_devices", "4"}}));
  int heard = 0;
  world.AllAtOnce([&heard](const std::string& name) { return name == "device-3" && ++heard > 2; });
  EXPECT_EQ(world.now, Seconds(5)) << "it is waited for once";
  EXPECT_EQ(world.devices.at("device-0")->stats().steps, world.plan.local_steps);
  world.AllAtOnce();
  EXPECT_TRUE(world.server->done());
}

TEST(SplitParallel, AKilledServerChangesNothing) {
  const Settings settings = With(kFour, {{"split.server", "parallel"}, {"split.checkpoint_every", "2"}});
  SplitWorld undisturbed(settings);
  undisturbed.AllAtOnce();
  for (const int victim : {11, 18, 27, 40}) {
    SCOPED_TRACE(victim);
    SplitWorld world(settings);
    world.time_passes = false;
    world.AllAtOnce([&](const std::string&) { return world.frames >= victim; });
    world.StartServer();
    for (const std::string& name : world.Names()) world.Reconnect(name);
    world.time_passes = true;
    world.AllAtOnce();
    ExpectSameBits(world.Outcome(), undisturbed.Outcome());
  }
}

TEST(SplitSequential, ADeviceGoesOnWithWhatTheOneBeforeItHasMade) {
  // Two devices of one step after each other are one device's two steps, when both see the same data: without memory in
  // the optimizer and without dropout.
  const Settings settings = {
      {"split.server", "sequential"},  {"device.lora_dropout", "0"},    {"server.lora_dropout", "0"},
      {"device.optimizer", "SGD"},     {"server.optimizer", "SGD"},     {"rounds", "1"},
      {"device.learning_rate", "0.5"}, {"server.learning_rate", "0.5"}, {"train.batch_size", "1"}};
  const auto outcome = [&settings](const char* devices, const char* steps) {
    SplitWorld world(With(settings, {{"devices_per_round", devices}, {"train.local_steps", steps}}));
    const std::string text = model::SampleText(40, 7);
    for (const std::string& name : world.Names()) {
      model::Require(WriteFileAtomically(world.folder() / (name + ".txt"), text));
      world.AddDevice(name);
    }
    size_t most = 0;
    world.Interleaved([&](const std::string&) { most = std::max(most, world.server->sessions()); });
    EXPECT_EQ(most, 1U) << "one device at a time";
    return world.Outcome();
  };
  EXPECT_LT(RelativeDistance(outcome("2", "1"), outcome("1", "2")), 1e-5);
}

TEST(SplitSequential, AKilledServerChangesNothing) {
  const Settings settings = {{"split.server", "sequential"}, {"devices_per_round", "3"}};
  SplitWorld undisturbed(settings);
  undisturbed.OneAfterTheOther();
  for (int victim = 3; victim < undisturbed.frames; victim += 9) {
    SplitWorld world(settings);
    bool killed = false;
    world.loses_answer = [&](int frame) {
      if (frame != victim || killed) return false;
      killed = true;
      world.StartServer();
      return true;
    };
    world.OneAfterTheOther();
    ExpectSameBits(world.Outcome(), undisturbed.Outcome());
  }
}

// ---- ahead ----

TEST(SplitPipeline, MicroBatchesOnTheWayChangeNoBit) {
  for (const Settings& way : {Settings{}, Settings{{"split.topology", "label_sharing"}},
                              Settings{{"device.peft_type", "FULL"}, {"device.learning_rate", "0.002"}}}) {
    const Settings settings = With(way, {{"split.server", "per_device"}, {"train.gradient_accumulation_steps", "4"}});
    SplitWorld one(settings);
    one.Interleaved();
    for (const char* ahead : {"2", "3", "9"}) {
      SplitWorld world(With(settings, {{"split.pipeline", ahead}}));
      world.Interleaved();
      ExpectSameBits(world.Outcome(), one.Outcome());
      EXPECT_GE(world.most_ahead, 2U);
      EXPECT_LE(world.most_ahead, world.plan.schedule().MaxInFlight());
    }
  }
}

}  // namespace
}  // namespace heddle
