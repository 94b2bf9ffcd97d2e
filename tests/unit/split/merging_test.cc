// What a round makes of its devices: by how many examples each counts, what is too much for a sum or a step, updates
// that cannot be merged, and a method's own settings.
#include <gtest/gtest.h>

#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;

Code RefusedWith(const std::string& answer) {
  if (*protocol::KindOf(answer) != FrameKind::kRefusal) return Code::kOk;
  return protocol::StatusOf(*protocol::ParseControlFrame(answer)).code();
}

// Until the device has to wait for others, or the run is over.
void DoRound(SplitWorld& world, const std::string& name) {
  for (world.waited = false; !world.waited && world.Turn(name);) {
  }
}

// ---- weights ----

// The first rows of each batch.
class FirstRows final : public client::HeadBatches {
 public:
  FirstRows(std::unique_ptr<client::HeadBatches> all, int64_t rows) : all_(std::move(all)), rows_(rows) {}

  Result<std::optional<client::HeadBatch>> Next() override {
    HEDDLE_ASSIGN_OR_RETURN(std::optional<client::HeadBatch> batch, all_->Next());
    if (!batch) return InvalidArgument("training data have an end");
    batch->input.ids = batch->input.ids.slice(0, 0, rows_).contiguous();
    batch->targets = batch->targets.slice(0, 0, rows_).contiguous();
    batch->rows = static_cast<uint64_t>(rows_);
    batch->counted = batch->targets.numel();
    batch->tokens = static_cast<uint64_t>(batch->counted);
    return std::optional<client::HeadBatch>(*std::move(batch));
  }

 private:
  const std::unique_ptr<client::HeadBatches> all_;
  const int64_t rows_;
};

// `resources` must outlive the world.
void UseRows(SplitWorld& world, client::TaskResources& resources, const std::string& name, int64_t rows) {
  auto options = client::PrepareSplitDevice(world.plan, world.folder() / (name + ".txt"), resources);
  ASSERT_TRUE(options.ok()) << options.status();
  const auto all = options->batches;
  options->batches = [all, rows](uint64_t seed) -> Result<std::unique_ptr<client::HeadBatches>> {
    HEDDLE_ASSIGN_OR_RETURN(std::unique_ptr<client::HeadBatches> batches, all(seed));
    return std::unique_ptr<client::HeadBatches>(std::make_unique<FirstRows>(std::move(batches), rows));
  };
  auto device = client::SplitDevice::Make(*std::move(options));
  ASSERT_TRUE(device.ok()) << device.status();
  world.devices[name] = *std::move(device);
  world.Reconnect(name);
}

// How far `merged` is from start + a mean of what two devices have changed, at most; in float64.
double DistanceFromMean(const StateDict& merged, const StateDict& start, const StateDict& first, double first_weight,
                        const StateDict& second, double second_weight) {
  double largest = 0;
  for (const auto& [key, tensor] : merged) {
    const auto values = tensor.values<float>(), from = start.at(key).values<float>();
    const auto a = first.at(key).values<float>(), b = second.at(key).values<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      const double moved = first_weight * (double{a[i]} - from[i]) + second_weight * (double{b[i]} - from[i]);
      largest = std::max(largest, std::abs(double{values[i]} - from[i] - moved / (first_weight + second_weight)));
    }
  }
  return largest;
}

TEST(SplitMerging, BothPartsAreMeansWeightedByExamples) {
  const Settings settings = {{"split.server", "per_device"}, {"rounds", "1"}};
  client::TaskResources resources;
  SplitWorld world(settings);
  const StateDict device_start = world.server->device_adapter(), server_start = world.server->server_adapter();
  UseRows(world, resources, "device-0", 3);
  UseRows(world, resources, "device-1", 1);
  world.Interleaved();
  ASSERT_TRUE(world.server->done());
  // What each of them makes of both parts by itself.
  std::map<std::string, std::pair<StateDict, StateDict>> alone;
  for (const auto& [name, rows] : std::map<std::string, int64_t>{{"device-0", 3}, {"device-1", 1}}) {
    SplitWorld one(With(settings, {{"devices_per_round", "1"}}));
    fs::copy_file(world.folder() / (name + ".txt"), one.folder() / (name + ".txt"),
                  fs::copy_options::overwrite_existing);
    UseRows(one, resources, name, rows);
    DoRound(one, name);
    ASSERT_TRUE(one.server->done()) << name;
    alone[name] = {one.server->device_adapter(), one.server->server_adapter()};
  }
  const auto& [device_0, server_0] = alone.at("device-0");
  const auto& [device_1, server_1] = alone.at("device-1");
  // Three steps of three rows and of one. What is merged goes through fixed point and float32.
  const StateDict device_part = world.server->device_adapter(), server_part = world.server->server_adapter();
  EXPECT_LT(DistanceFromMean(device_part, device_start, device_0, 9, device_1, 3), 1e-6);
  EXPECT_LT(DistanceFromMean(server_part, server_start, server_0, 9, server_1, 3), 1e-6);
  // A mean without weights is another one.
  EXPECT_GT(DistanceFromMean(device_part, device_start, device_0, 1, device_1, 1), 1e-4);
  EXPECT_GT(DistanceFromMean(server_part, server_start, server_0, 1, server_1, 1), 1e-4);
}

TEST(SplitMerging, AnUpdateWeighsWhatCameInItsSessionAndNotWhatItSays) {
  const Settings settings = {{"split.server", "per_device"}, {"split.checkpoint_every", "2"}};
  SplitWorld world(settings), undisturbed(settings);
  undisturbed.Interleaved();
  const auto claim = [&world] {
    while (*protocol::KindOf(world.Next("device-0")) != FrameKind::kUpdate) world.Turn("device-0");
    ControlFrame update = *protocol::ParseControlFrame(world.Next("device-0"));
    EXPECT_EQ(update.examples, 9U) << "three steps of three rows";
    for (const uint64_t examples :
         {uint64_t{0}, uint64_t{1}, uint64_t{8}, uint64_t{10}, uint64_t{18}, uint64_t{1} << 29, ~uint64_t{0}}) {
      update.examples = examples;
      EXPECT_EQ(RefusedWith(world.server->Handle("device-0", Serialize(update))), Code::kInvalidArgument) << examples;
    }
  };
  // Rows of frames that are answered from what is kept came once.
  world.loses_answer = [](int frame) { return frame % 3 == 0; };
  claim();
  world.loses_answer = {};
  // The server remembers two steps, and the device does the third again.
  world.StartServer();
  world.Reconnect("device-0");
  claim();
  // The claims have changed nothing, and the true one is taken.
  world.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

// ---- too much ----

// The device's next frame, a tail's gradient, all of one value.
std::string TailOf(SplitWorld& world, const std::string& name, float value) {
  TensorFrame tail = *protocol::ParseTensorFrame(world.Next(name));
  EXPECT_EQ(tail.kind, FrameKind::kTailGradient);
  for (size_t i = 0; i + sizeof value <= tail.tensor.size(); i += sizeof value) {
    tail.tensor.replace(i, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
  }
  return Serialize(tail);
}

TEST(SplitMerging, ACopyThatADeviceHasMovedBeyondTheBoundIsRefusedWithItsUpdate) {
  const Settings settings = {
      {"split.server", "per_device"}, {"devices_per_round", "3"},       {"rounds", "1"},
      {"train.local_steps", "1"},     {"server.optimizer", "SGD"},      {"server.learning_rate", "1"},
      {"server.max_grad_norm", "0"},  {"split.session_timeout_s", "60"}};
  SplitWorld world(settings), without(settings);
  DoRound(world, "device-0");
  world.Turn("device-2");
  world.Turn("device-2");
  const std::string gradient = world.server->Handle("device-2", TailOf(world, "device-2", 1e9F));
  ASSERT_EQ(*protocol::KindOf(gradient), FrameKind::kGradient) << "each value is a number, and so is what follows";
  world.Deliver("device-2", gradient);
  world.Reconnect("device-2");
  world.Turn("device-2");
  const std::string update = world.Next("device-2");
  ASSERT_EQ(*protocol::KindOf(update), FrameKind::kUpdate);
  EXPECT_EQ(world.server->sessions(), 1U);
  const std::string refusal = world.server->Handle("device-2", update);
  EXPECT_EQ(RefusedWith(refusal), Code::kInvalidArgument);
  EXPECT_NE(protocol::StatusOf(*protocol::ParseControlFrame(refusal)).message().find("copy of the server's part"),
            std::string::npos);
  EXPECT_EQ(world.server->sessions(), 0U);
  EXPECT_EQ(RefusedWith(world.server->Handle("device-2", update)), Code::kAborted);
  DoRound(world, "device-1");
  // The same round with a third device that never comes.
  DoRound(without, "device-0");
  DoRound(without, "device-1");
  for (SplitWorld* one : {&world, &without}) (void)one->server->Advance(Seconds(61));
  ExpectSameBits(world.Outcome(), without.Outcome());
}

struct Overflow {
  const char *optimizer, *max_grad_norm;
  float value;
};

class SplitOverflows : public testing::TestWithParam<Overflow> {
 protected:
  Settings Of(const Settings& more) const {
    return With({{"devices_per_round", "3"},
                 {"rounds", "1"},
                 {"server.optimizer", GetParam().optimizer},
                 {"server.max_grad_norm", GetParam().max_grad_norm},
                 {"split.session_timeout_s", "60"}},
                more);
  }
};

TEST_P(SplitOverflows, OfOneDeviceDoNotReachThePartThatAllShare) {
  const auto outcome = [this](bool hostile) {
    SplitWorld world(Of({{"train.local_steps", "2"}}));
    for (int i = 0; i < 4; ++i) world.Turn("device-0");  // a step, and the activations of the next
    if (hostile) {
      world.Turn("device-2");
      world.Turn("device-2");
      const std::string answer = world.server->Handle("device-2", TailOf(world, "device-2", GetParam().value));
      EXPECT_EQ(RefusedWith(answer), Code::kInvalidArgument);
      EXPECT_EQ(world.server->sessions(), 1U);
    }
    DoRound(world, "device-0");
    DoRound(world, "device-1");
    (void)world.server->Advance(Seconds(61));
    return world.Outcome();
  };
  ExpectSameBits(outcome(true), outcome(false));
}

TEST_P(SplitOverflows, OfOneDeviceAreLeftOutOfTheStepOfAll) {
  const auto outcome = [this](bool hostile) {
    SplitWorld world(Of({{"split.server", "parallel"}, {"train.local_steps", "1"}}));
    for (int i = 0; i < 2; ++i) {
      for (const std::string& name : world.Names()) world.Turn(name);  // hello, activations
    }
    std::map<uint64_t, std::string> owners;
    uint64_t ticket = 0;
    for (const std::string& name : world.Names()) {
      if (name == "device-2" && !hostile) continue;
      const std::string frame = name == "device-2" ? TailOf(world, name, GetParam().value) : world.Next(name);
      owners[++ticket] = name;
      world.server->Submit(ticket, name, frame, {});
    }
    while (world.server->Advance({}).computed) {
    }
    (void)world.server->Advance(Seconds(world.plan.step_timeout_s + 1));  // for who has not brought its step
    const auto replies = world.server->TakeReplies();
    EXPECT_EQ(replies.size(), owners.size());
    for (const auto& reply : replies) {
      const std::string& name = owners.at(reply.ticket);
      if (name == "device-2") continue;
      EXPECT_TRUE(world.Deliver(name, reply.frame));
      world.Reconnect(name);
    }
    DoRound(world, "device-0");
    DoRound(world, "device-1");
    (void)world.server->Advance(Seconds(120));
    return world.Outcome();
  };
  const StateDict with = outcome(true);
  ExpectSameBits(with, outcome(false));
  for (const auto& [key, tensor] : with) {
    for (const float value : tensor.values<float>()) ASSERT_TRUE(std::isfinite(value)) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SplitOverflows,
                         testing::Values(Overflow{"AdamW", "1", 1e38F}, Overflow{"AdamW", "1", 1e30F},
                                         Overflow{"AdamW", "0", 1e30F}, Overflow{"SGD", "0", 1e38F},
                                         Overflow{"SGD", "0", 1e12F}),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

// ---- rounds that cannot be merged ----

// Writes into the state a counted update of the device, without its tensors: no sum takes it.
void CountAnEmptyUpdate(SplitWorld& world, const std::string& device) {
  world.server.reset();
  const fs::path path = world.folder() / "run" / "state.safetensors";
  SafetensorsFile file = *ReadSafetensors(path);
  file.metadata["counted/" + device] = "7 9";
  model::Require(WriteSafetensors(path, file.tensors, file.metadata));
  world.StartServer();
}

TEST(SplitMerging, ARoundThatCannotBeMergedBeginsAnew) {
  const Settings settings = {
      {"split.server", "per_device"}, {"devices_per_round", "3"}, {"split.session_timeout_s", "60"}};
  SplitWorld undisturbed(settings);
  undisturbed.Interleaved();
  for (const char* when : {"restart", "last update", "deadline"}) {
    SCOPED_TRACE(when);
    SplitWorld world(settings);
    DoRound(world, "device-0");
    if (std::string(when) == "restart") {
      DoRound(world, "device-1");
      CountAnEmptyUpdate(world, "device-2");
    } else {
      CountAnEmptyUpdate(world, "device-1");
    }
    ASSERT_NE(world.server, nullptr);
    for (const std::string& name : world.Names()) world.Reconnect(name);
    if (std::string(when) == "last update") DoRound(world, "device-2");
    if (std::string(when) == "deadline") (void)world.server->Advance(Seconds(61));
    EXPECT_EQ(world.server->round(), 1U);
    EXPECT_EQ(world.server->sessions(), 0U);
    EXPECT_FALSE(fs::exists(world.folder() / "run" / "round-1"));
    world.Interleaved();
    ExpectSameBits(world.Outcome(), undisturbed.Outcome());
  }
}

// Until the device's next frame is its update; it has nothing to send when the run is over.
void UpToUpdate(SplitWorld& world, const std::string& name) {
  for (int guard = 0; guard < 100; ++guard) {
    if (world.Done(name) || *protocol::KindOf(world.Next(name)) == FrameKind::kUpdate) return;
    world.Turn(name);
  }
  FAIL() << name << " never comes to its update";
}

// Has the round of two devices abandoned, within one life of the server: the disk does not take what device 0 has done,
// and when the server reads again what is there, an update of device 1 is counted that no sum takes.
void FailToMerge(SplitWorld& world) {
  const fs::path run = world.folder() / "run", aside = world.folder() / "aside";
  UpToUpdate(world, "device-0");
  ASSERT_FALSE(world.Done("device-0"));
  fs::rename(run, aside);
  EXPECT_EQ(RefusedWith(world.server->Handle("device-0", world.Next("device-0"))), Code::kUnavailable);
  SafetensorsFile file = *ReadSafetensors(aside / "state.safetensors");
  file.metadata["counted/device-1"] = "7 9";
  model::Require(WriteSafetensors(aside / "state.safetensors", file.tensors, file.metadata));
  fs::rename(aside, run);
  world.Reconnect("device-0");
  world.Turn("device-0");
  ASSERT_EQ(*protocol::KindOf(world.Next("device-0")), FrameKind::kUpdate) << "its session goes on";
  world.Turn("device-0");
  ASSERT_EQ(*protocol::KindOf(world.Next("device-0")), FrameKind::kHello) << "it was counted";
}

TEST(SplitMerging, ARoundThatIsAbandonedThreeTimesInARowEndsTheRun) {
  const Settings settings = {{"split.server", "per_device"}};
  SplitWorld world(settings), undisturbed(settings);
  undisturbed.Interleaved();
  for (uint32_t attempt = 1; attempt <= coordinator::kMaxAbandonedAttempts; ++attempt) {
    EXPECT_EQ(world.server->failure(), "") << attempt;
    FailToMerge(world);
  }
  const std::string failure = world.server->failure(),
                    words = "round 1 was abandoned 3 times in a row; the last time: ";
  EXPECT_EQ(failure.substr(0, words.size()), words);
  EXPECT_GT(failure.size(), words.size());
  EXPECT_FALSE(world.server->done());
  EXPECT_EQ(world.server->round(), 1U);
  EXPECT_FALSE(fs::exists(world.folder() / "run" / "round-1"));
  // Both hear that the run is over, and nothing more happens.
  for (const std::string& name : world.Names()) {
    EXPECT_FALSE(world.Turn(name)) << name;
    EXPECT_TRUE(world.Done(name)) << name;
  }
  EXPECT_EQ(world.server->told(), 2U);
  EXPECT_EQ(world.server->sessions(), 0U);
  EXPECT_FALSE(world.server->Advance(Seconds(1e6)).computed);
  // A server that is started again goes on.
  world.StartServer();
  EXPECT_EQ(world.server->failure(), "");
  for (const std::string& name : world.Names()) world.Reconnect(name);
  world.Interleaved();
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

TEST(SplitMerging, AMergeBeginsTheCountOfAbandonedAttemptsAnew) {
  const Settings settings = {{"split.server", "per_device"}};
  SplitWorld world(settings), undisturbed(settings);
  undisturbed.Interleaved();
  for (const uint32_t round : {1U, 2U}) {
    for (uint32_t attempt = 1; attempt < coordinator::kMaxAbandonedAttempts; ++attempt) FailToMerge(world);
    EXPECT_EQ(world.server->round(), round);
    EXPECT_EQ(world.server->failure(), "");
    for (const std::string& name : world.Names()) {
      UpToUpdate(world, name);
      world.Turn(name);
    }
    EXPECT_EQ(world.server->round(), round + 1);
  }
  ExpectSameBits(world.Outcome(), undisturbed.Outcome());
}

// ---- the method's own settings ----

StateDict OutcomeOf(const Settings& settings) {
  SplitWorld world(settings);
  world.OneAfterTheOther();
  return world.Outcome();
}

TEST(SplitStrategies, ActAsTheirOwnSettingsSay) {
  // SGD: what differs by rounding stays so.
  const Settings plain = {{"split.server", "per_device"},  {"rounds", "2"},
                          {"device.optimizer", "SGD"},     {"server.optimizer", "SGD"},
                          {"device.learning_rate", "0.5"}, {"server.learning_rate", "0.5"}};
  const Settings momentum = With(plain, {{"strategy.name", "FedAvgM"}});
  const StateDict mean = OutcomeOf(plain);
  const double without = Distance(OutcomeOf(With(momentum, {{"strategy.server_momentum", "0"}})), mean);
  EXPECT_LT(without, 1e-2 * Distance(OutcomeOf(momentum), mean));
  // A server that takes no step stays where it began.
  SplitWorld still(With(momentum, {{"strategy.server_learning_rate", "0"}}));
  const StateDict device_start = still.server->device_adapter(), server_start = still.server->server_adapter();
  still.OneAfterTheOther();
  ASSERT_TRUE(still.server->done());
  ExpectSameBits(still.server->device_adapter(), device_start);
  ExpectSameBits(still.server->server_adapter(), server_start);
  // Of three values without the largest and the smallest the median is left; a fifth of three is none.
  const Settings three = {{"split.server", "per_device"}, {"rounds", "1"}, {"devices_per_round", "3"}};
  const StateDict median = OutcomeOf(With(three, {{"strategy.name", "CoordinateMedian"}}));
  const Settings trimmed = With(three, {{"strategy.name", "TrimmedMean"}});
  EXPECT_LT(Distance(OutcomeOf(With(trimmed, {{"strategy.trim_fraction", "0.34"}})), median), 1e-6);
  EXPECT_GT(Distance(OutcomeOf(trimmed), median), 1e-4);
}

TEST(SplitStrategies, RefuseSettingsThatAreNotTheirsBeforeADeviceComes) {
  const SplitWorld world;
  int folders = 0;  // a run's state is not another's
  const auto made = [&world, &folders](const Settings& settings) {
    const auto plan = protocol::SplitPlan::LoadText(kPlan, world.folder(), "plan", settings);
    if (!plan.ok()) return plan.status();
    auto options = coordinator::PrepareSplitServer(*plan, world.folder() / std::to_string(++folders));
    if (!options.ok()) return options.status();
    return coordinator::SplitServer::Make(*std::move(options)).status();
  };
  const auto refused = [&made](const Settings& settings, const std::vector<std::string>& said) {
    const Status status = made(settings);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << said[0];
    for (const std::string& words : said) EXPECT_NE(status.message().find(words), std::string::npos) << status;
  };
  const Settings momentum = {{"strategy.name", "FedAvgM"}, {"strategy.server_momentum", "0.5"}};
  EXPECT_TRUE(made(momentum).ok()) << made(momentum);
  refused({{"strategy.name", "FedAvgM"}, {"strategy.server_momentm", "0.5"}},
          {"'server_momentm'", "did you mean 'server_momentum'"});
  refused(With(momentum, {{"strategy.server_momentum", "2"}}), {"server_momentum is 2"});
  refused(With(momentum, {{"strategy.server_momentum", "fast"}}), {"strategy.server_momentum", "'fast'"});
  refused({{"strategy.server_momentum", "0.5"}}, {"FedAvg has no setting 'server_momentum'"});
  refused({{"strategy.max_abs", "0"}}, {"strategy.max_abs"});
  // 62 bits of a sum, less 1 for two updates, 29 for their examples and 20 for a million, are 12.
  refused({{"strategy.max_abs", "1000000"}}, {"strategy.max_abs leaves too few bits", "make it smaller"});
  // Also where there is nothing to merge.
  refused({{"device.peft_type", "NONE"}, {"strategy.no_such", "1"}}, {"'no_such'"});
  // Who expects an attacker needs the devices for it.
  const Settings krum = {{"strategy.name", "Krum"}, {"strategy.num_attackers", "1"}};
  refused(With(krum, {{"devices_per_round", "4"}, {"split.min_devices", "4"}}), {"at least 5"});
  const Settings five = With(krum, {{"devices_per_round", "5"}, {"split.min_devices", "5"}});
  EXPECT_TRUE(made(five).ok()) << made(five);
}

}  // namespace
}  // namespace heddle
