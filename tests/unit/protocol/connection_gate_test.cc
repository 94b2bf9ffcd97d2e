#include "protocol/transport/connection_gate.h"

#include <gtest/gtest.h>

namespace heddle::protocol {
namespace {

using Verdict = ConnectionGate::Verdict;
using std::chrono::milliseconds;

const ConnectionGate::TimePoint kStart{};

std::string Network(const std::string& address) { return NetworkOf(boost::asio::ip::make_address(address)); }

TEST(NetworkOf, IsTheAddressOfIPv4AndTheCustomersNetworkOfIPv6) {
  EXPECT_EQ(Network("192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(Network("::ffff:192.0.2.7"), "192.0.2.7") << "the same peer through a listener for both";
  EXPECT_EQ(Network("2001:db8:1:2:3:4:5:6"), Network("2001:db8:1:2:ffff::1"));
  EXPECT_NE(Network("2001:db8:1:2::1"), Network("2001:db8:1:3::1"));
  EXPECT_EQ(Network("2001:db8:1:2::1"), "2001:db8:1:2::/64");
}

TEST(ConnectionGate, LetsInAsManyAsMayInAllAndFromAnAddress) {
  ConnectionGate gate({.connections = 4, .per_address = 2});
  EXPECT_EQ(gate.Admit("a"), Verdict::kAdmitted);
  EXPECT_EQ(gate.Admit("a"), Verdict::kAdmitted);
  EXPECT_EQ(gate.Admit("a"), Verdict::kAddressFull);
  EXPECT_EQ(gate.Admit("b"), Verdict::kAdmitted);
  EXPECT_EQ(gate.Admit("c"), Verdict::kAdmitted);
  EXPECT_EQ(gate.Admit("d"), Verdict::kFull);
  gate.Leave(1, "a");
  EXPECT_EQ(gate.Admit("a"), Verdict::kAdmitted);
  EXPECT_EQ(gate.connections(), 4U);
}

TEST(ConnectionGate, RemembersNobodyWhoHasLeftOrWasNotLetIn) {
  ConnectionGate gate({.connections = 10, .per_address = 1});
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string network = std::to_string(i);
    ASSERT_EQ(gate.Admit(network), Verdict::kAdmitted);
    ASSERT_EQ(gate.Admit(network), Verdict::kAddressFull);
    gate.Leave(2 * i, network);
  }
  EXPECT_EQ(gate.networks(), 0U);
  EXPECT_EQ(gate.connections(), 0U);
}

TEST(ConnectionGate, AHandshakeThatTakesItsTimeMakesRoomForTheNext) {
  ConnectionGate gate({.connections = 10, .per_address = 0, .handshakes = 2, .patience = milliseconds(100)});
  EXPECT_FALSE(gate.MakeRoom(kStart));
  gate.HandshakeBegins(1, kStart);
  gate.HandshakeBegins(2, kStart + milliseconds(30));
  const auto waiting = gate.MakeRoom(kStart + milliseconds(60));
  ASSERT_TRUE(waiting);
  EXPECT_FALSE(waiting->end);
  EXPECT_EQ(waiting->wait, milliseconds(40)) << "until the oldest has had its time";
  const auto late = gate.MakeRoom(kStart + milliseconds(100));
  ASSERT_TRUE(late);
  EXPECT_EQ(late->end, 1U);
  EXPECT_FALSE(gate.MakeRoom(kStart + milliseconds(100))) << "one is enough";
}

TEST(ConnectionGate, AHandshakeThatEndedHoldsNobodyUp) {
  ConnectionGate gate({.connections = 10, .per_address = 0, .handshakes = 2, .patience = milliseconds(100)});
  for (uint64_t id : {1, 2}) {
    ASSERT_EQ(gate.Admit("a"), Verdict::kAdmitted);
    gate.HandshakeBegins(id, kStart);
  }
  gate.HandshakeEnded(1);
  EXPECT_FALSE(gate.MakeRoom(kStart + milliseconds(500)));
  gate.HandshakeBegins(3, kStart);
  gate.Leave(2, "a");
  EXPECT_FALSE(gate.MakeRoom(kStart + milliseconds(500)));
}

}  // namespace
}  // namespace heddle::protocol
