// The virtual time of a simulated world, what is going to happen in it, and all of its chance, from one seed.
//
// There is the true time, in which things travel and take their while, and the coordinator's wall clock, which is off
// by what it was set to. Happenings at the same instant happen in the order in which they were planned. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <string>
#include <tuple>
#include <vector>

#include "common/clock.h"
#include "common/random.h"

namespace heddle::system_simulation {

class Timeline final : public Clock {
 public:
  explicit Timeline(uint64_t seed) : random_(DeriveSeed(seed, "system world", "")) {}

  // ---- time ----
  Time Now() const override { return now_ + skew_; }  // as the coordinator's wall clock has it
  Time true_now() const { return now_; }
  Duration elapsed() const { return now_ - kStart; }
  void SetClockBy(Duration jump) { skew_ += jump; }
  Duration skew() const { return skew_; }

  void After(Duration delay, std::function<void()> what) {
    queue_.push({now_ + std::max(delay, Duration(0)), order_++, std::move(what)});
  }
  // Lets the next thing happen. False: nothing will any more.
  bool Step();
  uint64_t steps() const { return steps_; }

  // ---- chance ----
  bool Chance(double probability) { return probability > 0 && random_.NextUniform() < probability; }
  Duration Between(double low_s, double high_s) { return Seconds(low_s + (high_s - low_s) * random_.NextUniform()); }
  // Short times are frequent, long ones possible.
  Duration Skewed(double low_s, double high_s);
  uint32_t Below(uint32_t bound) { return random_.NextBelow(bound); }
  uint64_t Bits() {
    const uint64_t high = random_.NextU32();
    return high << 32 | random_.NextU32();
  }

  // ---- what happened ----
  void Note(std::string line);
  std::string Trace() const;                             // the last lines
  uint64_t fingerprint() const { return fingerprint_; }  // of all lines

 private:
  static constexpr Time kStart = Time(Duration(1'700'000'000'000'000));
  struct Happening {
    Time at;
    uint64_t order = 0;
    std::function<void()> what;
    bool operator>(const Happening& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
  };

  PhiloxStream random_;
  Time now_ = kStart;
  Duration skew_{0};
  uint64_t order_ = 0, steps_ = 0;
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> queue_;
  std::deque<std::pair<Duration, std::string>> trace_;
  uint64_t fingerprint_ = 14695981039346656037ULL;
};

}  // namespace heddle::system_simulation
