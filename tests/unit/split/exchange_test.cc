// Whole rounds of split learning in one process, against training without a cut and against each other.
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "model/parts/part_folder.h"
#include "tests/unit/split/split_world.h"
#include "tests/unit/split/unsplit.h"

namespace heddle {
namespace {

const Settings kFaster = {
    {"device.learning_rate", "0.06"}, {"server.learning_rate", "0.06"}, {"train.batch_size", "6"}};

class Rounds : public testing::TestWithParam<Settings> {};

TEST_P(Rounds, OfOneDeviceAreTheTrainingOfTheWholeModel) {
  for (const char* mode : {"shared", "per_device"}) {
    SplitWorld world(With(With(kAlone, GetParam()), {{"split.server", mode}}));
    world.Interleaved();
    const StateDict split = world.Outcome(), whole = Unsplit(world).adapter;
    ASSERT_FALSE(split.empty());
    // What is merged goes through the aggregator's fixed point; nothing else may differ.
    EXPECT_LT(Distance(split, whole), 1e-6) << mode;
    EXPECT_LT(world.devices.at("device-0")->stats().last_loss, world.devices.at("device-0")->stats().first_loss);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Rounds,
                         testing::Values(Settings{}, Settings{{"split.cut", "0"}, {"device.peft_type", "NONE"}},
                                         Settings{{"split.topology", "label_sharing"}}, Settings{{"split.cut", "2"}},
                                         Settings{{"train.gradient_accumulation_steps", "2"}},
                                         Settings{{"train.gradient_accumulation_steps", "2"},
                                                  {"split.topology", "label_sharing"}},
                                         Settings{{"device.peft_type", "FULL"},
                                                  {"server.peft_type", "FULL"},
                                                  {"device.learning_rate", "0.002"},
                                                  {"server.learning_rate", "0.002"}}),
                         [](const auto& info) { return "Settings" + std::to_string(info.index); });

TEST(SplitRounds, WithACopyForEachDeviceTheOrderOfFramesDoesNotCount) {
  const Settings v1 = {{"split.server", "per_device"}};
  SplitWorld together(v1), apart(v1);
  together.Interleaved();
  apart.OneAfterTheOther();
  ExpectSameBits(together.Outcome(), apart.Outcome());
}

TEST(SplitRounds, ADeviceNeedsNoMoreOfTheModelThanItsPart) {
  for (const char* topology : {"u_shaped", "label_sharing"}) {
    const Settings settings = {{"split.topology", topology}, {"split.server", "per_device"}};
    SplitWorld whole(settings), parts(settings);
    const model::Cut cut{parts.plan.cut, *model::SplitTopologyFromName(topology)};
    const std::filesystem::path folder = parts.folder() / "part";
    ASSERT_TRUE(model::WriteDevicePart(SplitWorld::BaseFolder(), cut, folder).ok());
    const std::filesystem::path base = std::exchange(parts.plan.base_model, folder);
    for (const std::string& name : parts.Names()) parts.AddDevice(name);
    parts.plan.base_model = base;
    whole.Interleaved();
    parts.Interleaved();
    ExpectSameBits(whole.Outcome(), parts.Outcome());
  }
}

TEST(SplitRounds, ADeviceThatKeepsItsActivationsTrainsTheSameBits) {
  for (const Settings& further :
       {Settings{{"device.lora_dropout", "0.2"}, {"train.gradient_accumulation_steps", "3"}},
        Settings{{"device.lora_dropout", "0.2"}, {"split.pipeline", "2"}, {"train.gradient_accumulation_steps", "3"}},
        Settings{{"device.peft_type", "FULL"}, {"server.peft_type", "FULL"}}}) {
    SplitWorld again(With({{"split.cut", "2"}}, further));
    SplitWorld kept(With({{"split.cut", "2"}, {"device.gradient_checkpointing", "false"}}, further));
    again.OneAfterTheOther();
    kept.OneAfterTheOther();
    ExpectSameBits(again.Outcome(), kept.Outcome());
  }
}

TEST(SplitRounds, ASharedServerLearnsFromEveryDeviceInTurnAndTheSameOrderGivesTheSameBits) {
  SplitWorld one, two;
  one.OneAfterTheOther();
  two.OneAfterTheOther();
  ExpectSameBits(one.Outcome(), two.Outcome());
  SplitWorld alone(Settings{{"devices_per_round", "1"}});
  alone.OneAfterTheOther();
  EXPECT_GT(Distance(one.Outcome(), alone.Outcome()), 1e-4);
}

TEST(SplitRounds, StepsOfDevicesMayOverlapOnASharedServer) {
  SplitWorld world(With(kFaster, {{"rounds", "4"}, {"train.local_steps", "8"}}));
  world.Interleaved();
  for (const auto& [name, device] : world.devices) {
    EXPECT_EQ(device->stats().steps, 32U) << name;
    EXPECT_LT(device->stats().last_loss, 5.6) << name;  // ln 320 = 5.77 at the start
  }
}

TEST(SplitRounds, CoarserEncodingsOfTheCutTrainNearlyAsWell) {
  std::map<std::string, double> losses;
  for (const char* encoding : {"f32", "bf16", "int8"}) {
    SplitWorld world(With(kFaster, {{"split.encoding", encoding}, {"rounds", "3"}, {"train.local_steps", "10"}}));
    world.OneAfterTheOther();
    losses[encoding] = world.devices.at("device-0")->stats().last_loss;
  }
  EXPECT_LT(losses["f32"], 5.6);
  EXPECT_NEAR(losses["bf16"], losses["f32"], 0.05);
  EXPECT_NEAR(losses["int8"], losses["f32"], 0.1);
}

TEST(SplitRounds, EachSideIsTunedInItsOwnWay) {
  const std::vector<std::pair<const char*, const char*>> kinds = {
      {"LORA", "FULL"}, {"FULL", "LORA"}, {"BOTTLENECK", "IA3"}, {"IA3", "BOTTLENECK"}};
  for (const auto& [device, server] : kinds) {
    SCOPED_TRACE(std::string(device) + " and " + server);
    SplitWorld world(With(kFaster, {{"device.peft_type", device}, {"server.peft_type", server}, {"rounds", "2"}}));
    const StateDict device_start = world.server->device_adapter(), server_start = world.server->server_adapter();
    world.OneAfterTheOther();
    // Both parts have moved, and are of their own kind.
    EXPECT_GT(Distance(device_start, world.server->device_adapter()), 1e-4);
    EXPECT_GT(Distance(server_start, world.server->server_adapter()), 1e-4);
    const auto& stats = world.devices.at("device-0")->stats();
    EXPECT_LT(stats.last_loss, 5.8);  // ln 320 = 5.77 at the start
  }
}

TEST(SplitRounds, OneSideMayBeLeftAsItIs) {
  for (const char* side : {"device", "server"}) {
    SplitWorld world(Settings{{std::string(side) + ".peft_type", "NONE"}});
    world.OneAfterTheOther();
    EXPECT_EQ(world.server->device_adapter().empty(), std::string(side) == "device");
    EXPECT_EQ(world.server->server_adapter().empty(), std::string(side) == "server");
    EXPECT_LT(world.devices.at("device-0")->stats().last_loss, 5.77);
  }
}

TEST(SplitRounds, EachRoundLeavesBothParts) {
  SplitWorld world;
  world.Interleaved();
  for (const char* round : {"round-1", "round-2"}) {
    EXPECT_EQ(SpecOf(ReadSafetensors(world.folder() / "run" / round / "device.safetensors")->tensors),
              SpecOf(world.server->device_adapter()));
    EXPECT_EQ(SpecOf(ReadSafetensors(world.folder() / "run" / round / "server.safetensors")->tensors),
              SpecOf(world.server->server_adapter()));
  }
}

TEST(SplitRounds, BytesAreThoseOfTheTensors) {
  SplitWorld world(Settings{{"split.encoding", "bf16"}, {"train.sequence_length", "64"}, {"train.batch_size", "8"}});
  world.OneAfterTheOther();
  const auto& stats = world.devices.at("device-0")->stats();
  EXPECT_EQ(stats.tensor_bytes, stats.steps * 4 * 8 * 64 * 32 * 2);  // four hops, bfloat16
  EXPECT_LT(static_cast<double>(stats.bytes_up + stats.bytes_down), 1.01 * static_cast<double>(stats.tensor_bytes));
}

}  // namespace
}  // namespace heddle
