// Frames over WebSockets over TLS: both ends on loopback.
#include "protocol/transport/frame_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "tests/unit/protocol/raw_peer.h"
#include "tests/unit/protocol/raw_websocket.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::protocol {
namespace {

class FrameSocketTest : public testing::Test {
 protected:
  FrameSocketTest() {
    pki_.Enrol("phone-1");
    options_.tls = pki_.ServerTls();
  }
  ~FrameSocketTest() override {
    if (listener_) listener_->Stop();
    EXPECT_TRUE(!listener_ || Eventually([this] { return listener_->connections() == 0; }));
    client_.Join();
    server_.Join();
  }

  void Listen() {
    listener_ = std::make_unique<FrameListener>(
        server_.io(), server_.io().get_executor(), options_,
        [this](const std::string& device, std::string frame, auto reply) {
          ++answered_;
          if (!holds_) return reply(device + " said " + frame);
          std::lock_guard lock(mutex_);
          held_.push_back([reply, answer = device + " said " + frame] { reply(answer); });
        });
    const Status status = listener_->Start();
    ASSERT_TRUE(status.ok()) << status;
  }
  FrameSocket::Target TargetFor(std::shared_ptr<boost::asio::ssl::context> tls) const {
    FrameSocket::Target target;
    target.host = "127.0.0.1";
    target.port = listener_->port();
    target.tls = std::move(tls);
    return target;
  }
  Result<std::shared_ptr<FrameSocket>> Connect(const std::string& device = "phone-1") {
    return Await(client_.io(), FrameSocket::Connect(TargetFor(pki_.ClientTls(device)), socket_));
  }
  Result<std::string> Exchange(FrameSocket& socket, const std::string& frame) {
    const Status written = Await(client_.io(), socket.Write(frame, Seconds(10)));
    if (!written.ok()) return written;
    return Await(client_.io(), socket.Read(Seconds(10)));
  }

  // A connection's end is counted about when its peer notices.
  void ExpectCount(uint64_t ListenerStats::*counter, uint64_t count) {
    EXPECT_TRUE(Eventually([&] { return listener_->stats().*counter == count; })) << listener_->stats().*counter;
  }

  Pki pki_;
  ListenerOptions options_;
  SocketOptions socket_;
  Threads server_, client_{1};
  std::unique_ptr<FrameListener> listener_;
  std::atomic<int> answered_{0};
  std::atomic<bool> holds_{false};
  std::mutex mutex_;
  std::vector<std::function<void()>> held_;  // answers that are given later

  size_t held() {
    std::lock_guard lock(mutex_);
    return held_.size();
  }
  void Release() {
    std::lock_guard lock(mutex_);
    for (const auto& answer : std::exchange(held_, {})) answer();
  }
};

TEST_F(FrameSocketTest, FramesOfAnySizeAreAnsweredInOrderToTheDeviceOfTheCertificate) {
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok()) << socket.status();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{70'000}, size_t{3} << 20}) {
    const std::string frame = MakeBytes(size);
    const auto answer = Exchange(**socket, frame);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(*answer, "phone-1 said " + frame);
  }
}

TEST_F(FrameSocketTest, WithoutACertificateOfTheAuthorityNobodyIsHeard) {
  Listen();
  EXPECT_EQ(Connect("").status().code(), Code::kUnauthenticated);
  const Pki foreign("another authority");
  foreign.Enrol("phone-1");
  const auto stranger = Await(client_.io(), FrameSocket::Connect(TargetFor(foreign.ClientTls("phone-1")), socket_));
  EXPECT_EQ(stranger.status().code(), Code::kUnauthenticated) << stranger.status();
  EXPECT_EQ(answered_, 0);
}

TEST_F(FrameSocketTest, ADeviceThatIsNoLongerAdmittedIsToldSoAndNoFrameOfItIsHeard) {
  std::atomic<bool> revoked{false};
  std::string serial = pki_.Enrol("phone-2");
  options_.admits = [&](const Peer& peer) -> Status {
    if (peer.device == "phone-2" && peer.serial_hex != serial) return Unauthenticated("an old certificate");
    return revoked && peer.device == "phone-1" ? PermissionDenied("phone-1 was revoked") : OkStatus();
  };
  Listen();
  const auto first = Connect("phone-1"), other = Connect("phone-2");
  ASSERT_TRUE(first.ok() && other.ok());
  EXPECT_TRUE(Exchange(**first, "hello").ok());
  revoked = true;
  EXPECT_FALSE(Exchange(**first, "once more").ok());
  EXPECT_EQ(answered_, 1);
  const Status refused = Connect("phone-1").status();
  EXPECT_EQ(refused.code(), Code::kUnauthenticated);
  EXPECT_NE(refused.message().find("phone-1 was revoked"), std::string::npos) << refused;
  EXPECT_TRUE(Exchange(**other, "still here").ok());
}

TEST_F(FrameSocketTest, AServerOfAnotherNameIsNotTrusted) {
  Listen();
  FrameSocket::Target target = TargetFor(pki_.ClientTls("phone-1"));
  target.server_name = "elsewhere.example";
  EXPECT_EQ(Await(client_.io(), FrameSocket::Connect(target, socket_)).status().code(), Code::kUnauthenticated);
}

TEST_F(FrameSocketTest, AFrameThatIsTooLargeEndsTheConnectionAndNoOther) {
  options_.socket.max_frame_bytes = 1000;
  Listen();
  const auto large = Connect(), small = Connect();
  ASSERT_TRUE(large.ok() && small.ok());
  EXPECT_EQ(Exchange(**large, MakeBytes(1001)).status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Exchange(**small, MakeBytes(1000)).ok());
  // Also one that is still being sent when it is refused; then the write may be what fails.
  const auto larger = Connect();
  ASSERT_TRUE(larger.ok());
  EXPECT_FALSE(Exchange(**larger, MakeBytes(size_t{1} << 20)).ok());
  EXPECT_EQ(answered_, 1);
  ExpectCount(&ListenerStats::large_frames, 2);
}

// Nothing of it is waited for, so nothing is kept: what a device announces takes no memory.
TEST_F(FrameSocketTest, AFrameThatIsTooLargeIsRefusedByItsHeader) {
  options_.socket.max_frame_bytes = 1000;
  Listen();
  RawPeer peer(listener_->port(), pki_.ClientTls("phone-1").get());
  ASSERT_TRUE(peer.Send(kUpgrade));
  EXPECT_EQ(peer.ReadStatus(), 101);
  ASSERT_TRUE(peer.Send(FrameHead(Opcode::kBinary, uint64_t{1} << 40)));
  std::string said;
  EXPECT_TRUE(peer.ReadToEnd(&said));
  EXPECT_EQ(CloseCodeOf(said), 1009);
  EXPECT_EQ(answered_, 0);
}

TEST_F(FrameSocketTest, FragmentsCountTogether) {
  options_.socket.max_frame_bytes = 1000;
  options_.read_timeout = Seconds(1);
  Listen();
  const auto flood = [this](const std::string& piece, int count) {
    RawPeer peer(listener_->port(), pki_.ClientTls("phone-1").get());
    EXPECT_TRUE(peer.Send(kUpgrade));
    EXPECT_EQ(peer.ReadStatus(), 101);
    EXPECT_TRUE(peer.Send(Frame(Opcode::kBinary, "x", /*last=*/false)));
    for (int i = 0; i < count; ++i) peer.Send(piece);
    std::string said;
    EXPECT_TRUE(peer.ReadToEnd(&said));
    return CloseCodeOf(said);
  };
  EXPECT_EQ(flood(Frame(Opcode::kContinuation, "x", /*last=*/false), 1000), 1009);
  ExpectCount(&ListenerStats::large_frames, 1);
  // Those of nothing never come to that, and not to a frame either.
  flood(Frame(Opcode::kContinuation, "", /*last=*/false), 1000);
  ExpectCount(&ListenerStats::silent, 1);
  EXPECT_EQ(answered_, 0);
}

TEST_F(FrameSocketTest, TextIsRefusedAsSuch) {
  Listen();
  RawPeer peer(listener_->port(), pki_.ClientTls("phone-1").get());
  ASSERT_TRUE(peer.Send(kUpgrade));
  EXPECT_EQ(peer.ReadStatus(), 101);
  ASSERT_TRUE(peer.Send(Frame(Opcode::kText, "HSF1") + Frame(Opcode::kClose, "")));
  peer.EndSending();
  std::string said;
  EXPECT_TRUE(peer.ReadToEnd(&said));
  EXPECT_EQ(CloseCodeOf(said), 1003);
  ExpectCount(&ListenerStats::not_binary, 1);
  EXPECT_EQ(answered_, 0);
}

TEST_F(FrameSocketTest, PingsInsteadOfFramesEndTheConnection) {
  options_.socket.max_control_frames = 10;
  Listen();
  const std::string ping = Frame(Opcode::kPing, "ping");
  RawPeer flood(listener_->port(), pki_.ClientTls("phone-1").get());
  RawPeer few(listener_->port(), pki_.ClientTls("phone-1").get());
  for (RawPeer* peer : {&flood, &few}) {
    ASSERT_TRUE(peer->Send(kUpgrade));
    EXPECT_EQ(peer->ReadStatus(), 101);
  }
  for (int i = 0; i < 11; ++i) flood.Send(ping);
  EXPECT_TRUE(flood.ReadToEnd());
  ExpectCount(&ListenerStats::control_floods, 1);
  for (int frame = 0; frame < 3; ++frame) {  // so many between any two frames are no flood
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(few.Send(ping));
    EXPECT_TRUE(few.Send(Frame(Opcode::kBinary, "frame")));
    EXPECT_TRUE(Eventually([&] { return answered_ == frame + 1; }));
  }
}

TEST_F(FrameSocketTest, TheFirstFrameOfAConnectionMayHaveABoundOfItsOwn) {
  options_.first_frame_bytes = 100;
  Listen();
  const auto large = Connect(), small = Connect();
  ASSERT_TRUE(large.ok() && small.ok());
  EXPECT_EQ(Exchange(**large, MakeBytes(101)).status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Exchange(**small, MakeBytes(100)).ok());
  EXPECT_TRUE(Exchange(**small, MakeBytes(10'000)).ok());
}

TEST_F(FrameSocketTest, WhoNeverSaysAnythingIsClosedSoonerThanWhoHas) {
  options_.first_frame_timeout = Seconds(0.05);
  Listen();
  const auto heard = Connect();
  ASSERT_TRUE(heard.ok());
  ASSERT_TRUE(Exchange(**heard, "hello").ok());
  const auto silent = Connect();
  ASSERT_TRUE(silent.ok());
  EXPECT_TRUE(Eventually([this] { return listener_->stats().silent == 1; }));
  EXPECT_TRUE(Exchange(**heard, "still here").ok());
}

TEST_F(FrameSocketTest, AnAddressHasOnlySoManyConnections) {
  options_.max_connections_per_address = 2;
  Listen();
  RawPeer first(listener_->port(), nullptr, 0, 2), second(listener_->port(), nullptr, 0, 2);
  RawPeer third(listener_->port(), nullptr, 0, 2);
  EXPECT_TRUE(third.ReadToEnd());
  ExpectCount(&ListenerStats::refused_address, 1);
  EXPECT_EQ(listener_->connections(), 2U);
  EXPECT_TRUE(Connect().ok()) << "from another address";
}

TEST_F(FrameSocketTest, SilentHandshakesMakeRoomForOthersAndEndInTime) {
  options_.max_handshakes = 2;
  options_.socket.handshake_timeout = Seconds(4);
  Listen();
  // Silent before TLS, in it, and in the request that follows.
  RawPeer silent(listener_->port()), half(listener_->port()), trickle(listener_->port(), pki_.ClientTls().get());
  half.Send(RawPeer::ClientHello(*pki_.ClientTls("phone-1")).substr(0, 50));
  trickle.Send("GET /v1/split HTTP/1.1\r\n");
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(Exchange(**socket, "hello").ok());
  EXPECT_GE(listener_->stats().refused_handshakes, 1U);
  EXPECT_TRUE(silent.ReadToEnd() && half.ReadToEnd());
  EXPECT_TRUE(trickle.ReadToEnd());
  EXPECT_TRUE(Eventually([this] {
    const ListenerStats stats = listener_->stats();
    return stats.refused_handshakes + stats.late_handshakes == 3;
  }));
}

TEST_F(FrameSocketTest, AHeadThatIsTooLargeOrIsNoneIsRefused) {
  Listen();
  const auto status = [this](const std::string& head, const std::string& device = "phone-1") {
    RawPeer peer(listener_->port(), pki_.ClientTls(device).get());
    peer.Send(head);
    return peer.ReadStatus();
  };
  const std::string line = "GET /v1/split HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(status(line + "A: " + std::string(20'000, 'a') + "\r\n\r\n"), 431);
  EXPECT_EQ(status(line + "A: " + std::string(20'000, 'a')), 431) << "and no end is waited for";
  EXPECT_EQ(status("\x01\x02 nothing\r\n\r\n"), 400);
  EXPECT_EQ(status(line + "Content-Length: 5\r\n\r\nhello"), 400);
  EXPECT_EQ(status(line + "\r\n"), 404) << "no upgrade";
  ExpectCount(&ListenerStats::bad_requests, 5);
  EXPECT_EQ(status(line + "A: " + std::string(20'000, 'a'), ""), 401) << "a stranger is told no more";
}

TEST_F(FrameSocketTest, ADeviceThatConnectsOnceMoreLosesItsOldestConnection) {
  Listen();
  pki_.Enrol("phone-2");
  const auto other = Connect("phone-2"), first = Connect(), second = Connect();
  ASSERT_TRUE(other.ok() && first.ok() && second.ok());
  ASSERT_TRUE(Exchange(**first, "a").ok());
  ASSERT_TRUE(Exchange(**second, "a").ok());
  const auto third = Connect();
  ASSERT_TRUE(third.ok());
  EXPECT_EQ(Await(client_.io(), (*first)->Read(Seconds(10))).status().code(), Code::kUnavailable);
  ExpectCount(&ListenerStats::replaced, 1);
  for (const auto& socket : {*other, *second, *third}) EXPECT_TRUE(Exchange(*socket, "b").ok());
}

TEST_F(FrameSocketTest, WhatADeviceHasOnItsWayCountsOverItsConnectionsUntilItIsAnswered) {
  const auto on_the_way = std::make_shared<std::atomic<uint64_t>>(0);
  options_.begin_flight = [on_the_way](const Peer& peer, uint64_t bytes) -> std::shared_ptr<void> {
    EXPECT_EQ(peer.device, "phone-1");
    if (*on_the_way + bytes > 10) return nullptr;
    *on_the_way += bytes;
    return {on_the_way.get(), [on_the_way, bytes](void*) { *on_the_way -= bytes; }};
  };
  holds_ = true;
  Listen();
  auto first = Connect();
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(Await(client_.io(), (*first)->Write("12345678", Seconds(10))).ok());
  ASSERT_TRUE(Eventually([this] { return held() == 1; }));
  // A connection that is gone has left it behind.
  Await(client_.io(), [](FrameSocket* socket) -> FrameSocket::Awaitable<bool> {
    socket->Close();
    co_return true;
  }(first->get()));
  const auto second = Connect();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(Exchange(**second, "12345678").status().code(), Code::kUnavailable);
  ExpectCount(&ListenerStats::over_share, 1);
  EXPECT_EQ(answered_, 1);
  holds_ = false;
  Release();
  EXPECT_TRUE(Eventually([&] { return *on_the_way == 0; }));
  const auto third = Connect();
  ASSERT_TRUE(third.ok());
  EXPECT_TRUE(Exchange(**third, "12345678").ok());
}

TEST_F(FrameSocketTest, AnAnswerThatIsTooLargeIsRefusedByTheClient) {
  socket_.max_frame_bytes = 10;
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok());
  const auto answer = Exchange(**socket, "frame");
  EXPECT_FALSE(answer.ok());
  EXPECT_FALSE(Exchange(**socket, "frame").ok());  // the connection is closed
}

TEST_F(FrameSocketTest, SilenceEndsAtItsDeadlineOnEitherSide) {
  options_.read_timeout = Seconds(0.05);
  Listen();
  const auto silent = Connect();
  ASSERT_TRUE(silent.ok());
  EXPECT_TRUE(Eventually([this] { return listener_->connections() == 0; }));
  EXPECT_EQ(Await(client_.io(), (*silent)->Read(Seconds(10))).status().code(), Code::kUnavailable);

  const auto patient = Connect();
  ASSERT_TRUE(patient.ok());
  const auto read = Await(client_.io(), (*patient)->Read(Seconds(0.001)));
  EXPECT_FALSE(read.ok());
}

TEST_F(FrameSocketTest, MoreConnectionsThanAllowedAreClosedAndRoomComesBack) {
  options_.max_connections = 1;
  Listen();
  auto first = Connect();
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(Exchange(**first, "a").ok());
  EXPECT_EQ(Connect().status().code(), Code::kUnavailable);
  Await(client_.io(), [](FrameSocket* socket) -> FrameSocket::Awaitable<bool> {
    socket->Close();
    co_return true;
  }(first->get()));
  EXPECT_TRUE(Eventually([this] { return Connect().ok(); }));
}

TEST_F(FrameSocketTest, SomeFramesMayBeOnTheWayAndNoMoreAreReadThanThat) {
  options_.max_in_flight = 2;
  holds_ = true;
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok());
  for (const char* frame : {"1", "2", "3"}) {
    ASSERT_TRUE(Await(client_.io(), (*socket)->Write(frame, Seconds(10))).ok());
  }
  ASSERT_TRUE(Eventually([this] { return held() == 2; }));
  // Another device is read and answered meanwhile, so the third frame has had its time.
  pki_.Enrol("phone-2");
  const auto other = Connect("phone-2");
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE(Await(client_.io(), (*other)->Write("4", Seconds(10))).ok());
  ASSERT_TRUE(Eventually([this] { return held() == 3; }));
  EXPECT_EQ(answered_, 3);
  holds_ = false;
  Release();
  std::multiset<std::string> answers;  // each as soon as there is one
  for (int i = 0; i < 3; ++i) answers.insert(*Await(client_.io(), (*socket)->Read(Seconds(10))));
  EXPECT_THAT(answers, testing::ElementsAre("phone-1 said 1", "phone-1 said 2", "phone-1 said 3"));
  EXPECT_EQ(*Await(client_.io(), (*other)->Read(Seconds(10))), "phone-2 said 4");
}

TEST_F(FrameSocketTest, WhoWaitsForAnAnswerIsNotSilent) {
  options_.read_timeout = Seconds(0.05);
  holds_ = true;
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok());
  ASSERT_TRUE(Await(client_.io(), (*socket)->Write("1", Seconds(10))).ok());
  ASSERT_TRUE(Eventually([this] { return held() == 1; }));
  // A second one, silent from its beginning, is closed at the deadline; the first has then passed its own.
  const auto silent = Connect();
  ASSERT_TRUE(silent.ok());
  ASSERT_TRUE(Eventually([this] { return listener_->connections() == 1; }));
  Release();
  EXPECT_EQ(*Await(client_.io(), (*socket)->Read(Seconds(10))), "phone-1 said 1");
}

TEST_F(FrameSocketTest, AStopDoesNotWaitForAnswersThatNeverCome) {
  holds_ = true;
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok());
  ASSERT_TRUE(Await(client_.io(), (*socket)->Write("1", Seconds(10))).ok());
  ASSERT_TRUE(Eventually([this] { return held() == 1; }));
  listener_->Stop();
  EXPECT_TRUE(Eventually([this] { return listener_->connections() == 0; }));
  Release();  // too late: nothing happens
  listener_.reset();
}

TEST_F(FrameSocketTest, AStopEndsWhatIsOpen) {
  Listen();
  const auto socket = Connect();
  ASSERT_TRUE(socket.ok());
  ASSERT_TRUE(Exchange(**socket, "a").ok());
  listener_->Stop();
  EXPECT_TRUE(Eventually([this] { return listener_->connections() == 0; }));
  EXPECT_FALSE(Exchange(**socket, "b").ok());
  EXPECT_FALSE(Connect().ok());
  listener_.reset();
}

TEST_F(FrameSocketTest, APortThatIsTakenIsSaid) {
  Listen();
  ListenerOptions same = options_;
  same.port = listener_->port();
  FrameListener second(server_.io(), server_.io().get_executor(), same, {});
  EXPECT_EQ(second.Start().code(), Code::kAlreadyExists);
}

TEST_F(FrameSocketTest, WhoAsksForAPageIsTurnedAway) {
  Listen();
  ClientOptions options;
  options.host = "127.0.0.1";
  options.port = listener_->port();
  options.tls = pki_.ClientTls("phone-1");
  std::unique_ptr<HttpClient> http = std::make_unique<HttpClient>(client_.io().get_executor(), options);
  const auto answer = Await(client_.io(), http->Send(HttpRequest("GET", "/healthz")));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 404U);
  EXPECT_EQ(answered_, 0);
  Await(client_.io(), [](std::unique_ptr<HttpClient>* gone) -> FrameSocket::Awaitable<bool> {
    gone->reset();
    co_return true;
  }(&http));
}

}  // namespace
}  // namespace heddle::protocol
