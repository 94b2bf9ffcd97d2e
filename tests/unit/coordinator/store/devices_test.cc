#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "tests/unit/coordinator/store/rows.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator::testing {
namespace {

class DevicesTest : public ::testing::Test {
 protected:
  DevicesTest() : store_(MustOpen()) {}

  std::unique_ptr<Store> MustOpen() {
    auto store = Store::Open(folder_.path() / "coordinator.db");
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static DeviceRecord Device(const std::string& name, const std::string& serial = "0a") {
    return {.device = DeviceId(name), .serial = serial, .not_after = At(1000), .enrolled_at = At(5), .revoked_at = {}};
  }
  void Enrol(const std::string& name, const std::string& serial = "0a") {
    Sha256Digest token = Sha256("token of " + name + serial);
    ASSERT_TRUE(store_->CreateToken(token, DeviceId(name), At(100)).ok());
    ASSERT_TRUE(store_->RedeemToken(token, At(5), Device(name, serial)).ok());
  }

  TempFolder folder_;
  std::unique_ptr<Store> store_;
  const Sha256Digest token_ = Sha256("secret");
};

// ---- tokens ----

TEST_F(DevicesTest, ATokenEnrolsItsDeviceOnce) {
  ASSERT_TRUE(store_->CreateToken(token_, DeviceId("phone"), At(100)).ok());
  EXPECT_EQ(*store_->CheckToken(token_, At(5)), DeviceId("phone"));
  EXPECT_EQ(*store_->CheckToken(token_, At(5)), DeviceId("phone"));  // looking does not use it up
  ASSERT_TRUE(store_->RedeemToken(token_, At(5), Device("phone")).ok());
  EXPECT_EQ(store_->RedeemToken(token_, At(6), Device("phone")).code(), Code::kUnauthenticated);
  EXPECT_EQ(store_->CheckToken(token_, At(6)).status().code(), Code::kUnauthenticated);
  auto device = store_->GetDevice(DeviceId("phone"));
  ASSERT_TRUE(device.ok() && *device);
  EXPECT_EQ((*device)->serial, "0a");
  EXPECT_EQ((*device)->not_after, At(1000));
  EXPECT_EQ((*device)->enrolled_at, At(5));
  EXPECT_FALSE((*device)->revoked_at);
}

TEST_F(DevicesTest, ATokenEndsAtItsExpiry) {
  ASSERT_TRUE(store_->CreateToken(token_, DeviceId("phone"), At(100)).ok());
  EXPECT_TRUE(store_->CheckToken(token_, At(100) - Duration(1)).ok());
  EXPECT_EQ(store_->CheckToken(token_, At(100)).status().code(), Code::kUnauthenticated);
  EXPECT_EQ(store_->RedeemToken(token_, At(100), Device("phone")).code(), Code::kUnauthenticated);
  EXPECT_TRUE(store_->ListDevices()->empty());
}

TEST_F(DevicesTest, UnknownUsedAndExpiredTokensAreRefusedWithTheSameSentence) {
  Sha256Digest used = Sha256("used");
  Sha256Digest expired = Sha256("expired");
  ASSERT_TRUE(store_->CreateToken(used, DeviceId("phone"), At(100)).ok());
  ASSERT_TRUE(store_->RedeemToken(used, At(1), Device("phone")).ok());
  ASSERT_TRUE(store_->CreateToken(expired, DeviceId("phone"), At(2)).ok());
  Status unknown = store_->CheckToken(Sha256("unknown"), At(50)).status();
  EXPECT_EQ(store_->CheckToken(used, At(50)).status(), unknown);
  EXPECT_EQ(store_->CheckToken(expired, At(50)).status(), unknown);
}

TEST_F(DevicesTest, ATokenOfAnotherDeviceIsRefusedAndStaysUnused) {
  ASSERT_TRUE(store_->CreateToken(token_, DeviceId("phone"), At(100)).ok());
  EXPECT_EQ(store_->RedeemToken(token_, At(5), Device("laptop")).code(), Code::kInvalidArgument);
  EXPECT_TRUE(store_->ListDevices()->empty());
  EXPECT_TRUE(store_->RedeemToken(token_, At(5), Device("phone")).ok());
}

TEST_F(DevicesTest, ATokenIsCreatedOnceAndForARealNameOnly) {
  ASSERT_TRUE(store_->CreateToken(token_, DeviceId("phone"), At(100)).ok());
  EXPECT_EQ(store_->CreateToken(token_, DeviceId("phone"), At(100)).code(), Code::kAlreadyExists);
  for (const char* name : {"", "Phone", "../x", "a b", "-a"}) {
    EXPECT_EQ(store_->CreateToken(Sha256(name), DeviceId(name), At(100)).code(), Code::kInvalidArgument) << name;
  }
}

TEST_F(DevicesTest, OfManyWhoRaceForOneTokenOneWins) {
  ASSERT_TRUE(store_->CreateToken(token_, DeviceId("phone"), At(100)).ok());
  auto other = MustOpen();  // another process, as far as SQLite can tell
  std::atomic<int> winners{0};
  std::atomic<int> refused{0};
  std::vector<std::thread> racers;
  for (int i = 0; i < 8; ++i) {
    racers.emplace_back([&, i] {
      Store& store = i % 2 == 0 ? *store_ : *other;
      Status status = store.RedeemToken(token_, At(5), Device("phone", std::to_string(i)));
      if (status.ok()) ++winners;
      if (status.code() == Code::kUnauthenticated) ++refused;
    });
  }
  for (std::thread& racer : racers) racer.join();
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(refused, 7);
}

TEST_F(DevicesTest, ExpiredTokensAreForgotten) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(store_->CreateToken(Sha256(std::to_string(i)), DeviceId("phone"), At(i)).ok());
  }
  EXPECT_EQ(*store_->DeleteExpiredTokens(At(3)), 3U);
  EXPECT_EQ(*store_->DeleteExpiredTokens(At(3)), 0U);
  EXPECT_TRUE(store_->CheckToken(Sha256("4"), At(0)).ok());
  EXPECT_FALSE(store_->CheckToken(Sha256("2"), At(0)).ok());
}

// ---- devices ----

TEST_F(DevicesTest, AreListedByName) {
  for (const char* name : {"b", "c", "a"}) Enrol(name);
  std::vector<std::string> names;
  auto devices = store_->ListDevices();
  for (const DeviceRecord& device : *devices) names.push_back(device.device.value());
  EXPECT_THAT(names, ::testing::ElementsAre("a", "b", "c"));
  EXPECT_FALSE(*store_->GetDevice(DeviceId("d")));
}

TEST_F(DevicesTest, ARevocationKeepsItsFirstTime) {
  Enrol("phone");
  EXPECT_EQ(store_->RevokeDevice(DeviceId("laptop"), At(7)).code(), Code::kNotFound);
  ASSERT_TRUE(store_->RevokeDevice(DeviceId("phone"), At(7)).ok());
  ASSERT_TRUE(store_->RevokeDevice(DeviceId("phone"), At(8)).ok());
  store_ = MustOpen();
  EXPECT_EQ((*store_->GetDevice(DeviceId("phone")))->revoked_at, At(7));
}

TEST_F(DevicesTest, ARenewalReplacesTheCertificate) {
  Enrol("phone");
  ASSERT_TRUE(store_->RenewDevice(DeviceId("phone"), "0b", At(2000)).ok());
  auto device = store_->GetDevice(DeviceId("phone"));
  EXPECT_EQ((*device)->serial, "0b");
  EXPECT_EQ((*device)->not_after, At(2000));
  EXPECT_EQ((*device)->enrolled_at, At(5));
  EXPECT_EQ(store_->RenewDevice(DeviceId("laptop"), "0b", At(2000)).code(), Code::kNotFound);
}

TEST_F(DevicesTest, ARevokedDeviceCannotRenewButCanBeEnrolledAgain) {
  Enrol("phone");
  ASSERT_TRUE(store_->RevokeDevice(DeviceId("phone"), At(7)).ok());
  EXPECT_EQ(store_->RenewDevice(DeviceId("phone"), "0b", At(2000)).code(), Code::kPermissionDenied);
  EXPECT_EQ((*store_->GetDevice(DeviceId("phone")))->serial, "0a");
  Enrol("phone", "0c");
  auto device = store_->GetDevice(DeviceId("phone"));
  EXPECT_FALSE((*device)->revoked_at);
  EXPECT_EQ((*device)->serial, "0c");
}

}  // namespace
}  // namespace heddle::coordinator::testing
