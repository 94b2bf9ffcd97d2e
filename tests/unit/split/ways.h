// The ways in which a split run goes whose outcome does not depend on who is when: what tests of broken connections and
// kills are run for. Of passes over several devices (split.server_batch) the rounding does, and nothing else.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/unit/split/split_world.h"

namespace heddle {

struct Way {
  const char* name;
  Settings settings;
  // A frame of each device in turn; one device after the other; or all of them at once.
  enum class Order { kInterleaved, kOneByOne, kTogether } order;
  double bound = 0;  // of RelativeDistance between two runs; 0: the same bits
};

// A run that is disturbed takes the same steps as one that is not, but others share its passes, or nobody does. The
// furthest that this goes is that all passes are of one: Batching.GivesEachDeviceWhatItGetsAloneUpToRounding holds that
// to as much for four devices and as many steps.
constexpr double kOfPasses = 2e-4;

// SGD: AdamW's first steps make a sign of a gradient, which rounding may turn. No pipeline: what a device of SplitWorld
// had sent before it was cut off still comes to it.
inline Settings InOnePass(const Settings& settings) {
  return With({{"split.server_batch", "2"},
               {"device.optimizer", "SGD"},
               {"server.optimizer", "SGD"},
               {"device.learning_rate", "0.5"},
               {"server.learning_rate", "0.5"}},
              settings);
}

// With a copy of the server's part for each device the order in which they come back does not count.
inline const std::vector<Way>& Ways() {
  using Order = Way::Order;
  static const std::vector<Way> ways = {
      {"per device", {{"split.server", "per_device"}}, Order::kInterleaved},
      {"shared", {}, Order::kOneByOne},
      {"label sharing", {{"split.server", "per_device"}, {"split.topology", "label_sharing"}}, Order::kInterleaved},
      {"micro-batches",
       {{"split.server", "per_device"}, {"train.gradient_accumulation_steps", "2"}},
       Order::kInterleaved},
      {"pipeline",
       {{"split.server", "per_device"}, {"train.gradient_accumulation_steps", "3"}, {"split.pipeline", "2"}},
       Order::kInterleaved},
      {"seldom written", {{"split.server", "per_device"}, {"split.checkpoint_every", "4"}}, Order::kInterleaved},
      {"shared, seldom written", {{"split.checkpoint_every", "2"}}, Order::kOneByOne},
      {"sequential", {{"split.server", "sequential"}}, Order::kOneByOne},
      {"pipeline, labels shared, one for all",
       {{"split.topology", "label_sharing"}, {"train.gradient_accumulation_steps", "3"}, {"split.pipeline", "2"}},
       Order::kOneByOne},
      {"parallel", {{"split.server", "parallel"}, {"split.step_timeout_s", "600"}}, Order::kTogether},
      {"in one pass", InOnePass({{"split.server", "per_device"}}), Order::kTogether, kOfPasses},
      {"in one pass, labels shared, micro-batches",
       InOnePass({{"split.server", "per_device"},
                  {"split.topology", "label_sharing"},
                  {"train.gradient_accumulation_steps", "2"}}),
       Order::kTogether, kOfPasses},
      {"in one pass, parallel", InOnePass({{"split.server", "parallel"}, {"split.step_timeout_s", "600"}}),
       Order::kTogether, kOfPasses}};
  return ways;
}

inline void ExpectUnchanged(const Way& way, const StateDict& outcome, const StateDict& expected) {
  if (way.bound == 0) return ExpectSameBits(outcome, expected);
  EXPECT_LT(RelativeDistance(outcome, expected), way.bound);
}

inline void Drive(SplitWorld& world, const Way& way, const std::function<void(const std::string&)>& after = {}) {
  if (way.order == Way::Order::kInterleaved) {
    world.Interleaved(after);
  } else if (way.order == Way::Order::kOneByOne) {
    world.OneAfterTheOther(after);
  } else {
    world.AllAtOnce({}, after);
  }
}

// For names of tests.
inline std::string WayName(size_t way) {
  std::string name = Ways()[way].name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

}  // namespace heddle
