// The split server's door, by a database that the coordinator goes on writing.
#include "coordinator/split/device_gate.h"

#include <gtest/gtest.h>

#include "common/digest.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::coordinator {
namespace {

class DeviceGateTest : public testing::Test {
 protected:
  DeviceGateTest() : store_(*Store::Open(folder_ / "coordinator.db")) {}

  void Enrol(const std::string& name, const std::string& serial) {
    DeviceRecord record;
    record.device = DeviceId(name);
    record.serial = serial;
    record.enrolled_at = SystemClock().Now();
    record.not_after = record.enrolled_at + Seconds(3600);
    const Sha256Digest token = Sha256(name + serial);
    ASSERT_TRUE(store_->CreateToken(token, record.device, record.not_after).ok());
    ASSERT_TRUE(store_->RedeemToken(token, record.enrolled_at, record).ok());
  }
  static protocol::Peer PeerOf(const std::string& name, const std::string& serial) {
    protocol::Peer peer;
    peer.authenticated = true;
    peer.device = name;
    peer.serial_hex = serial;
    return peer;
  }

  const TempDir folder_;
  const std::unique_ptr<Store> store_;
};

TEST_F(DeviceGateTest, FollowsWhatTheCoordinatorWrites) {
  Enrol("phone", "1a");
  Enrol("tablet", "2b");
  const auto gate = DeviceGate::Open(folder_ / "coordinator.db", Seconds(0.01));
  ASSERT_TRUE(gate.ok()) << gate.status();
  const auto says = [&](const std::string& name, const std::string& serial) {
    return (*gate)->Admits(PeerOf(name, serial)).code();
  };
  EXPECT_EQ(says("phone", "1a"), Code::kOk);
  EXPECT_EQ(says("phone", "9f"), Code::kUnauthenticated) << "not its newest certificate";
  EXPECT_EQ(says("watch", "3c"), Code::kUnauthenticated) << "never enrolled";
  EXPECT_EQ((*gate)->Admits({}).code(), Code::kUnauthenticated);
  ASSERT_TRUE(store_->RevokeDevice(DeviceId("phone"), SystemClock().Now()).ok());
  Enrol("tablet", "2c");
  EXPECT_TRUE(protocol::Eventually([&] {
    return says("phone", "1a") == Code::kPermissionDenied && says("tablet", "2b") == Code::kUnauthenticated;
  }));
  EXPECT_EQ(says("tablet", "2c"), Code::kOk);
}

TEST_F(DeviceGateTest, WithoutADatabaseThereIsNoDoor) {
  const auto gate = DeviceGate::Open(folder_ / "none.db");
  EXPECT_EQ(gate.status().code(), Code::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "none.db"));
}

}  // namespace
}  // namespace heddle::coordinator
