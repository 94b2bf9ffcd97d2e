// The simulator's time: stands still until it is told to go on. Thread-safe.
#pragma once

#include <atomic>

#include "common/clock.h"

namespace heddle::simulator {

class VirtualClock final : public Clock {
 public:
  // Not the epoch, which means "never" in rows.
  static constexpr int64_t kStartMicros = 1'000'000'000'000'000;

  Time Now() const override { return FromUnixMicros(now_.load()); }
  // Never backwards.
  void AdvanceTo(Time t) {
    if (ToUnixMicros(t) > now_.load()) now_ = ToUnixMicros(t);
  }

 private:
  std::atomic<int64_t> now_{kStartMicros};
};

}  // namespace heddle::simulator
