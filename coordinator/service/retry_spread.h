// Times after which devices are told to come back, spread out so that those told in one instant (a shutdown, a full
// machine) do not return in one instant. Thread-safe.
#pragma once

#include <atomic>
#include <string_view>

#include "common/clock.h"
#include "common/random.h"

namespace heddle::coordinator {

class RetrySpread {
 public:
  explicit RetrySpread(std::string_view purpose) : stream_(DeriveSeed(0, "retry", purpose)) {}

  // At least `least` and less than half as much again; uniform. No time stays none.
  Duration From(Duration least) {
    return least + std::chrono::duration_cast<Duration>(least * (0.5 * stream_.UniformAt(drawn_++)));
  }

 private:
  const PhiloxStream stream_;
  std::atomic<uint64_t> drawn_{0};
};

}  // namespace heddle::coordinator
