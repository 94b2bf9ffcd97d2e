// Frames over WebSockets over TLS: both ends on loopback.
#include "protocol/transport/frame_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "tests/unit/protocol/raw_peer.h"
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
  EXPECT_FALSE(Exchange(**large, MakeBytes(1001)).ok());
  EXPECT_TRUE(Exchange(**small, MakeBytes(1000)).ok());
  EXPECT_EQ(answered_, 1);
}

// Nothing of it is waited for, so nothing is kept: what a device announces takes no memory.
TEST_F(FrameSocketTest, AFrameThatIsTooLargeIsRefusedByItsHeader) {
  options_.socket.max_frame_bytes = 1000;
  Listen();
  RawPeer peer(listener_->port(), pki_.ClientTls("phone-1").get());
  ASSERT_TRUE(
      peer.Send("GET /v1/split HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"));
  EXPECT_EQ(peer.ReadStatus(), 101);
  // RFC 6455, 5.2: the end of a binary message, masked, of 2^40 bytes, of which none comes.
  ASSERT_TRUE(peer.Send(std::string("\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00mask", 14)));
  EXPECT_TRUE(peer.ReadToEnd());
  EXPECT_EQ(answered_, 0);
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
