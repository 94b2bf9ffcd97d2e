// Time as Heddle uses it: microseconds since the Unix epoch. State machines never read a clock, they are handed `now`;
// what drives them asks a Clock: the wall clock in the services, a virtual one in the simulator and the fault tests.
#pragma once

#include <chrono>
#include <cstdint>

namespace heddle {

using Duration = std::chrono::microseconds;
using Time = std::chrono::time_point<std::chrono::system_clock, Duration>;

// Thread-safety: Now() may be called from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time Now() const = 0;
};

class SystemClock final : public Clock {
 public:
  Time Now() const override { return std::chrono::time_point_cast<Duration>(std::chrono::system_clock::now()); }
};

inline int64_t ToUnixMicros(Time t) { return t.time_since_epoch().count(); }
inline Time FromUnixMicros(int64_t us) { return Time(Duration(us)); }
// Nearest microsecond; the caller has checked that `seconds` is finite and below 1e12.
inline Duration Seconds(double seconds) { return std::chrono::round<Duration>(std::chrono::duration<double>(seconds)); }
inline double ToSeconds(Duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace heddle
