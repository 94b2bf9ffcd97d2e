#include "coordinator/service/device_limits.h"

#include <algorithm>
#include <utility>

namespace heddle::coordinator {

void TokenBucket::Fill(Rate rate, Time now) {
  if (now > last_) tokens_ = std::min(rate.burst, tokens_ + ToSeconds(now - last_) * rate.per_s);
  last_ = now;
}

std::optional<Duration> TokenBucket::Take(Rate rate, Time now, double tokens) {
  Fill(rate, now);
  tokens = std::min(tokens, rate.burst);
  if (tokens_ >= tokens) {
    tokens_ -= tokens;
    return std::nullopt;
  }
  return std::max(Duration(1), Seconds((tokens - tokens_) / rate.per_s));
}

bool TokenBucket::Full(Rate rate, Time now) const {
  TokenBucket then = *this;
  then.Fill(rate, now);
  return then.tokens_ >= rate.burst;
}

DeviceLimits::Row& DeviceLimits::RowOf(const DeviceId& device, Time now) {
  auto found = devices_.find(device.value());
  if (found != devices_.end()) return found->second;
  if (devices_.size() >= sweep_at_) {
    // A full bucket says no more than none. Twice as many rows as are left must come before the next look.
    std::erase_if(devices_, [&](auto& row) {
      return row.second.bytes_in_flight == 0 && row.second.bucket.Full(options_.requests, now);
    });
    sweep_at_ = std::max<size_t>(1024, 2 * devices_.size());
  }
  return devices_.emplace(device.value(), Row{.bucket = TokenBucket(options_.requests, now)}).first->second;
}

std::optional<Duration> DeviceLimits::CountRequest(const DeviceId& device, double as_many) {
  if (options_.requests.per_s <= 0) return std::nullopt;
  const Time now = clock_->Now();
  std::lock_guard lock(mutex_);
  // What is left of a full bucket when the request itself has been counted is enough for any.
  const double most = std::max(1.0, options_.requests.burst - 1);
  return RowOf(device, now).bucket.Take(options_.requests, now, std::min(as_many, most));
}

std::optional<DeviceLimits::Flight> DeviceLimits::BeginFlight(const DeviceId& device, uint64_t bytes) {
  Flight flight;
  if (options_.bytes_in_flight == 0 || bytes == 0) return flight;
  std::lock_guard lock(mutex_);
  Row& row = RowOf(device, clock_->Now());
  const uint64_t limit = options_.bytes_in_flight;
  if (row.bytes_in_flight > 0 && (bytes > limit || row.bytes_in_flight > limit - bytes)) return std::nullopt;
  row.bytes_in_flight += bytes;
  flight.limits_ = this;
  flight.device_ = device.value();
  flight.bytes_ = bytes;
  return flight;
}

DeviceLimits::Flight& DeviceLimits::Flight::operator=(Flight&& other) noexcept {
  if (this == &other) return *this;
  End();
  limits_ = std::exchange(other.limits_, nullptr);
  device_ = std::move(other.device_);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void DeviceLimits::Flight::End() {
  if (limits_ == nullptr) return;
  std::lock_guard lock(limits_->mutex_);
  // The row is there: one with bytes in flight is not forgotten.
  limits_->devices_.at(device_).bytes_in_flight -= bytes_;
  limits_ = nullptr;
}

std::optional<Duration> DeviceLimits::MayTryToken(const std::string& network) {
  if (options_.bad_tokens.per_s <= 0) return std::nullopt;
  std::lock_guard lock(mutex_);
  auto found = addresses_.find(network);
  if (found == addresses_.end()) return std::nullopt;
  TokenBucket look = found->second;  // a look takes nothing: only what was not good counts
  return look.Take(options_.bad_tokens, clock_->Now());
}

void DeviceLimits::CountBadToken(const std::string& network) {
  if (options_.bad_tokens.per_s <= 0) return;
  const Time now = clock_->Now();
  std::lock_guard lock(mutex_);
  auto found = addresses_.find(network);
  if (found == addresses_.end()) {
    if (addresses_.size() >= kMaxAddresses) {
      std::erase_if(addresses_, [&](auto& row) { return row.second.Full(options_.bad_tokens, now); });
      // So many at once are not stopped by counting them; tokens cannot be guessed anyway.
      if (addresses_.size() >= kMaxAddresses) addresses_.clear();
    }
    found = addresses_.emplace(network, TokenBucket(options_.bad_tokens, now)).first;
  }
  found->second.Take(options_.bad_tokens, now);
}

size_t DeviceLimits::devices() const {
  std::lock_guard lock(mutex_);
  return devices_.size();
}

size_t DeviceLimits::addresses() const {
  std::lock_guard lock(mutex_);
  return addresses_.size();
}

}  // namespace heddle::coordinator
