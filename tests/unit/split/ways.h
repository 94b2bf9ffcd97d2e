// The ways in which a split run goes whose outcome does not depend on who is when: what tests of broken connections and
// kills are run for. Not here: passes over several devices (split.server_batch), whose rounding depends on who is in
// one.
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
};

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
      {"parallel", {{"split.server", "parallel"}, {"split.step_timeout_s", "600"}}, Order::kTogether}};
  return ways;
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
