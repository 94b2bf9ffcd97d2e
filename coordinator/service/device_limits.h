// What one device may ask for, so that none can take the coordinator from the others: requests a second, and bytes of
// bodies in memory. And how often an address may try tokens that are not good.
//
// A device is known by its certificate before it is counted, so the table has at most as many rows as devices are
// enrolled, and those that have been quiet are forgotten; the table of addresses is cut to kMaxAddresses.
//
// Thread-safety: every method from any thread. Time comes from the clock; one that jumps back gives nothing away.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/clock.h"
#include "common/ids.h"

namespace heddle::coordinator {

// A bucket that fills at `per_s` up to `burst`. A value; `now` may jump.
class TokenBucket {
 public:
  struct Rate {
    double per_s = 0, burst = 0;
  };

  TokenBucket(Rate rate, Time now) : tokens_(rate.burst), last_(now) {}
  // Takes so many tokens, at most a full bucket. Nothing: they were there; else the time until they will be.
  std::optional<Duration> Take(Rate rate, Time now, double tokens = 1);
  bool Full(Rate rate, Time now) const;

 private:
  void Fill(Rate rate, Time now);

  double tokens_;
  Time last_;
};

struct DeviceLimitOptions {
  TokenBucket::Rate requests{.per_s = 100, .burst = 1000};        // of one device; per_s 0: no limit
  TokenBucket::Rate bad_tokens{.per_s = 20.0 / 60, .burst = 20};  // from one address; per_s 0: no limit
  // Bytes of one device's bodies that are in memory, most of them on their way to the disk; what is larger goes alone.
  // 0: no limit.
  uint64_t bytes_in_flight = uint64_t{4} << 20;
};

class DeviceLimits {
 public:
  static constexpr size_t kMaxAddresses = 65'536;

  // `clock` must outlive it.
  DeviceLimits(DeviceLimitOptions options, const Clock* clock) : options_(options), clock_(clock) {}

  // A request of the device, or one that is as much work as so many. Nothing: it may go on; else how long the device
  // should stay away.
  std::optional<Duration> CountRequest(const DeviceId& device, double as_many = 1);

  // Bytes in flight, given back when it goes. Movable; must not outlive the limits.
  class Flight {
   public:
    Flight() = default;
    Flight(Flight&& other) noexcept { *this = std::move(other); }
    Flight& operator=(Flight&& other) noexcept;
    ~Flight() { End(); }

   private:
    friend class DeviceLimits;
    void End();
    DeviceLimits* limits_ = nullptr;
    std::string device_;
    uint64_t bytes_ = 0;
  };
  // Nothing: the device has as much on its way as it may.
  std::optional<Flight> BeginFlight(const DeviceId& device, uint64_t bytes);

  // Whether the address may try a token now; nothing: yes. CountBadToken when it was not good.
  std::optional<Duration> MayTryToken(const std::string& network);
  void CountBadToken(const std::string& network);

  // Rows of the tables, for tests.
  size_t devices() const;
  size_t addresses() const;

 private:
  struct Row {
    TokenBucket bucket;
    uint64_t bytes_in_flight = 0;
  };
  Row& RowOf(const DeviceId& device, Time now);  // mutex_ is held

  const DeviceLimitOptions options_;
  const Clock* clock_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Row> devices_;
  size_t sweep_at_ = 1024;  // rows from which quiet ones are looked for
  std::unordered_map<std::string, TokenBucket> addresses_;
};

}  // namespace heddle::coordinator
