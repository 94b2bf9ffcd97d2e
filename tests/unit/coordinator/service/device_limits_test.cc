// The shares of devices and addresses, on a clock that the test moves.
#include "coordinator/service/device_limits.h"

#include <gtest/gtest.h>

#include <utility>

namespace heddle::coordinator {
namespace {

class ManualClock final : public Clock {
 public:
  Time Now() const override { return now; }
  Time now = FromUnixMicros(1'700'000'000'000'000);
};

class DeviceLimitsTest : public ::testing::Test {
 protected:
  static DeviceLimitOptions Small() {
    DeviceLimitOptions options;
    options.requests = {.per_s = 2, .burst = 4};
    options.bad_tokens = {.per_s = 0.1, .burst = 3};
    options.bytes_in_flight = 1000;
    return options;
  }
  int Taken(DeviceLimits& limits, const DeviceId& device, int tries) {
    int taken = 0;
    for (int i = 0; i < tries; ++i) taken += limits.CountRequest(device) ? 0 : 1;
    return taken;
  }

  ManualClock clock_;
  const DeviceId anna_{"anna"}, bert_{"bert"};
};

TEST_F(DeviceLimitsTest, ABurstIsTakenAndThenTheRate) {
  DeviceLimits limits(Small(), &clock_);
  EXPECT_EQ(Taken(limits, anna_, 10), 4);
  EXPECT_EQ(limits.CountRequest(anna_), Seconds(0.5)) << "until the next one";
  clock_.now += Seconds(1);
  EXPECT_EQ(Taken(limits, anna_, 10), 2);
  clock_.now += Seconds(1000);
  EXPECT_EQ(Taken(limits, anna_, 10), 4) << "what was not used does not add up";
}

TEST_F(DeviceLimitsTest, ARequestThatIsAsMuchWorkAsManyCountsAsMany) {
  TokenBucket bucket({.per_s = 10, .burst = 20}, clock_.Now());
  EXPECT_FALSE(bucket.Take({.per_s = 10, .burst = 20}, clock_.Now(), 15));
  const auto wait = bucket.Take({.per_s = 10, .burst = 20}, clock_.Now(), 15);
  ASSERT_TRUE(wait);
  EXPECT_EQ(*wait, Seconds(1)) << "ten are missing";
  EXPECT_FALSE(bucket.Take({.per_s = 10, .burst = 20}, clock_.Now(), 5)) << "what is too much takes nothing";
  EXPECT_EQ(bucket.Take({.per_s = 10, .burst = 20}, clock_.Now(), 1000), Seconds(2)) << "at most a full bucket";
}

TEST_F(DeviceLimitsTest, WhoComesBackWhenToldIsServed) {
  DeviceLimits limits(Small(), &clock_);
  Taken(limits, anna_, 4);
  for (int i = 0; i < 20; ++i) {
    const auto wait = limits.CountRequest(anna_);
    ASSERT_TRUE(wait);
    clock_.now += *wait;
    EXPECT_FALSE(limits.CountRequest(anna_)) << i;
  }
}

TEST_F(DeviceLimitsTest, ADevicesShareIsItsOwn) {
  DeviceLimits limits(Small(), &clock_);
  EXPECT_EQ(Taken(limits, anna_, 100), 4);
  EXPECT_EQ(Taken(limits, bert_, 4), 4);
}

TEST_F(DeviceLimitsTest, AClockThatJumpsBackNeitherGivesNorBlocks) {
  DeviceLimits limits(Small(), &clock_);
  EXPECT_EQ(Taken(limits, anna_, 10), 4);
  clock_.now -= Seconds(1e6);
  EXPECT_EQ(Taken(limits, anna_, 10), 0);
  clock_.now += Seconds(0.5);
  EXPECT_EQ(Taken(limits, anna_, 10), 1) << "time goes on from where the clock is now";
}

TEST_F(DeviceLimitsTest, ARateOfZeroIsNoLimit) {
  DeviceLimitOptions options = Small();
  options.requests.per_s = options.bad_tokens.per_s = 0;
  options.bytes_in_flight = 0;
  DeviceLimits limits(options, &clock_);
  EXPECT_EQ(Taken(limits, anna_, 10'000), 10'000);
  for (int i = 0; i < 100; ++i) limits.CountBadToken("192.0.2.1");
  EXPECT_FALSE(limits.MayTryToken("192.0.2.1"));
  const auto one = limits.BeginFlight(anna_, 1 << 30), two = limits.BeginFlight(anna_, 1 << 30);
  EXPECT_TRUE(one && two);
}

TEST_F(DeviceLimitsTest, BytesInFlightAreGivenBackWhenTheyLand) {
  DeviceLimits limits(Small(), &clock_);
  auto first = limits.BeginFlight(anna_, 600);
  ASSERT_TRUE(first);
  EXPECT_FALSE(limits.BeginFlight(anna_, 600));
  EXPECT_TRUE(limits.BeginFlight(anna_, 400));
  EXPECT_TRUE(limits.BeginFlight(bert_, 1000)) << "another device has its own";
  first.reset();
  EXPECT_TRUE(limits.BeginFlight(anna_, 600));
}

TEST_F(DeviceLimitsTest, AFlightThatMovedIsGivenBackOnce) {
  DeviceLimits limits(Small(), &clock_);
  {
    auto first = limits.BeginFlight(anna_, 1000);
    ASSERT_TRUE(first);
    DeviceLimits::Flight moved = *std::move(first);
    first.reset();
    EXPECT_FALSE(limits.BeginFlight(anna_, 1)) << "the new owner still holds it";
    moved = DeviceLimits::Flight();
    EXPECT_TRUE(limits.BeginFlight(anna_, 1000));
  }
  EXPECT_TRUE(limits.BeginFlight(anna_, 1000));
}

TEST_F(DeviceLimitsTest, WhatIsLargerThanTheWholeGoesAlone) {
  DeviceLimits limits(Small(), &clock_);
  auto large = limits.BeginFlight(anna_, ~uint64_t{0});
  EXPECT_TRUE(large);
  EXPECT_FALSE(limits.BeginFlight(anna_, 1));
  EXPECT_FALSE(limits.BeginFlight(anna_, ~uint64_t{0}));
  large.reset();
  EXPECT_TRUE(limits.BeginFlight(anna_, 1));
}

TEST_F(DeviceLimitsTest, OnlyTokensThatAreNotGoodCountAgainstAnAddress) {
  DeviceLimits limits(Small(), &clock_);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(limits.MayTryToken("192.0.2.1"));
  for (int i = 0; i < 3; ++i) limits.CountBadToken("192.0.2.1");
  EXPECT_EQ(limits.MayTryToken("192.0.2.1"), Seconds(10));
  EXPECT_FALSE(limits.MayTryToken("192.0.2.2"));
  clock_.now += Seconds(10);
  EXPECT_FALSE(limits.MayTryToken("192.0.2.1"));
}

TEST_F(DeviceLimitsTest, QuietDevicesAreForgottenAndBusyOnesAreNot) {
  DeviceLimits limits(Small(), &clock_);
  auto flight = limits.BeginFlight(anna_, 1000);
  EXPECT_EQ(Taken(limits, bert_, 4), 4);
  for (int i = 0; i < 100'000; ++i) {
    clock_.now += Seconds(0.001);
    limits.CountRequest(DeviceId("device-" + std::to_string(i)));
    if (i % 100 == 0) limits.CountRequest(bert_);  // 10 a second where 2 are taken: never quiet
  }
  // A bucket of this test is full again after half a second, that is 500 devices.
  EXPECT_LE(limits.devices(), 3000U);
  EXPECT_FALSE(limits.BeginFlight(anna_, 1)) << "bytes in flight are not forgotten";
  EXPECT_LE(Taken(limits, bert_, 4), 1);
}

TEST_F(DeviceLimitsTest, TheTableOfAddressesIsBounded) {
  DeviceLimits limits(Small(), &clock_);
  for (size_t i = 0; i < 3 * DeviceLimits::kMaxAddresses; ++i) {
    limits.CountBadToken("2001:db8:" + std::to_string(i) + "::/64");
    ASSERT_LE(limits.addresses(), DeviceLimits::kMaxAddresses);
  }
}

}  // namespace
}  // namespace heddle::coordinator
