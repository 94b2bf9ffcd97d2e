// Peers that break the rules, go slow, or go away: each gets its answer or its end, and the next peer is served.
#include <gmock/gmock.h>

#include <random>

#include "common/file.h"
#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "raw_peer.h"
#include "transport_fixture.h"

namespace heddle::protocol {
namespace {

using testing::HasSubstr;

constexpr char kWho[] = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n";

class Hostile : public TransportTest {
 protected:
  static ServerOptions Impatient() {
    ServerOptions options;
    options.handshake_timeout = options.header_timeout = options.keep_alive_timeout = Seconds(0.1);
    options.body_idle_timeout = Seconds(0.1);
    return options;
  }
  void ExpectStillServing() {
    RawPeer peer(server_->port());
    ASSERT_TRUE(peer.Send(kWho));
    EXPECT_EQ(peer.ReadStatus(), 200);
  }
};

struct BadRequest {
  const char* what;
  std::string bytes;
  int status;
};

std::vector<BadRequest> BadRequests() {
  const std::string host = "Host: x\r\n";
  return {
      {"no HTTP at all", "hello\r\n\r\n", 400},
      {"another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"a version that does not exist", "GET / HTTP/3.7\r\n" + host + "\r\n", 400},
      {"a header without a colon", "GET / HTTP/1.1\r\nHost x\r\n\r\n", 400},
      {"a folded or broken header name", "GET / HTTP/1.1\r\nHo st: x\r\n\r\n", 400},
      {"a NUL in the target", std::string("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 28), 400},
      {"no host", "GET / HTTP/1.1\r\n\r\n", 400},
      {"two hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", 400},
      {"a target that is no path", "GET http://x/ HTTP/1.1\r\n" + host + "\r\n", 400},
      {"a broken escape", "GET /%zz HTTP/1.1\r\n" + host + "\r\n", 400},
      {"an escaped NUL", "GET /%00 HTTP/1.1\r\n" + host + "\r\n", 400},
      {"a length that is no number", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: ten\r\n\r\n", 400},
      {"a negative length", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", 400},
      {"two lengths", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"a length beyond any", "POST /echo HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551615\r\n\r\n", 413},
      {"a body in chunks", "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411},
      {"chunks and a length",
       "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400},
      {"an unknown expectation", "POST /echo HTTP/1.1\r\n" + host + "Expect: a miracle\r\nContent-Length: 3\r\n\r\n",
       417},
      {"a long target", "GET /" + std::string(kMaxTargetBytes, 'a') + " HTTP/1.1\r\n" + host + "\r\n", 414},
      {"a target without an end", "GET /" + std::string(100'000, 'a'), 414},
      {"a large header", "GET / HTTP/1.1\r\n" + host + "X: " + std::string(kMaxHttpHeaderBytes, 'a') + "\r\n\r\n", 431},
      {"headers without an end", "GET / HTTP/1.1\r\n" + std::string(100'000, 'a'), 431},
  };
}

TEST_F(Hostile, BadHeadsGetTheirStatusATypedRefusalAndTheEndOfTheConnection) {
  Serve({}, /*tls=*/false);
  const auto page = ReadFile(HEDDLE_SOURCE_DIR "/docs/protocol.md");
  ASSERT_TRUE(page.ok()) << page.status();
  uint64_t malformed = 0, too_large = 0;
  for (const BadRequest& bad : BadRequests()) {
    SCOPED_TRACE(bad.what);
    RawPeer peer(server_->port());
    ASSERT_TRUE(peer.Send(bad.bytes));
    const std::string answer = peer.ReadAnswer();
    ASSERT_GT(answer.size(), 12u);
    EXPECT_EQ(std::stoi(answer.substr(9, 3)), bad.status);
    EXPECT_THAT(answer, HasSubstr("Connection: close"));
    const auto refusal = ParseMessage<v1::Refusal>(answer.substr(answer.find("\r\n\r\n") + 4));
    ASSERT_TRUE(refusal.ok());
    const bool large = bad.status == 413 || bad.status == 414 || bad.status == 431;
    ++(large ? too_large : malformed);
    EXPECT_EQ(refusal->reason(), large ? v1::REFUSAL_REASON_TOO_LARGE : v1::REFUSAL_REASON_MALFORMED);
    EXPECT_FALSE(refusal->message().empty());
    EXPECT_THAT(*page, HasSubstr("\n| " + std::to_string(bad.status) + " | `" +
                                 std::string(ReasonName(refusal->reason())) + "` | "));
    EXPECT_TRUE(peer.ReadToEnd());
  }
  EXPECT_GT(malformed, 0U);
  EXPECT_GT(too_large, 0U);
  EXPECT_EQ(server_->stats().malformed_heads, malformed);
  EXPECT_EQ(server_->stats().large_heads, too_large);
  EXPECT_EQ(server_->stats().failures, 0U);
  ExpectStillServing();
}

TEST_F(Hostile, HeadMayArriveByteByByteAndAfterEmptyLines) {
  Serve({}, false);
  RawPeer peer(server_->port());
  for (char c : std::string("\r\n\r\n") + kWho) ASSERT_TRUE(peer.Send(std::string_view(&c, 1)));
  EXPECT_EQ(peer.ReadStatus(), 200);
}

TEST_F(Hostile, PipelinedRequestsAreAnsweredInOrder) {
  Serve({}, false);
  RawPeer peer(server_->port());
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
  ASSERT_TRUE(peer.Send(kWho + post + "GET /none HTTP/1.1\r\nHost: x\r\n\r\n" + post));
  EXPECT_EQ(peer.ReadStatus(), 200);
  EXPECT_TRUE(peer.ReadAnswer().ends_with("\r\n\r\nhello"));
  EXPECT_EQ(peer.ReadStatus(), 404);
  EXPECT_TRUE(peer.ReadAnswer().ends_with("\r\n\r\nhello"));
}

TEST_F(Hostile, ConnectionCloseAndHttp10AreHonoured) {
  Serve({}, false);
  for (const char* request :
       {"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET /who HTTP/1.0\r\n\r\n"}) {
    RawPeer peer(server_->port());
    ASSERT_TRUE(peer.Send(request));
    EXPECT_THAT(peer.ReadAnswer(), HasSubstr("Connection: close"));
    EXPECT_TRUE(peer.ReadToEnd());
  }
}

TEST_F(Hostile, ExpectContinueIsAnsweredWhenTheBodyIsWanted) {
  Serve({}, false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(peer.ReadAnswer(), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(peer.Send("hello"));
  EXPECT_TRUE(peer.ReadAnswer().ends_with("hello"));
  ASSERT_TRUE(peer.Send("POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(peer.ReadStatus(), 404) << "without a 100 when nobody wants the body";
  EXPECT_TRUE(peer.ReadToEnd());
}

TEST_F(Hostile, SmallUnreadBodyIsDrainedAndALargeOneEndsTheConnection) {
  Serve({}, false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + std::string(60'000, 'b')));
  EXPECT_EQ(peer.ReadStatus(), 404);
  ASSERT_TRUE(peer.Send("POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + std::string(70'000, 'b')));
  EXPECT_THAT(peer.ReadAnswer(), HasSubstr("Connection: close"));
  EXPECT_TRUE(peer.ReadToEnd());
  RawPeer large(server_->port());
  ASSERT_TRUE(
      large.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n" + std::string(1'048'577, 'b')));
  EXPECT_EQ(large.ReadStatus(), 413);
}

TEST_F(Hostile, TruncatedBodyIsAnErrorForTheHandler) {
  std::promise<Status> seen;
  routes_["/body"] = [&](Exchange& exchange) -> Awaitable<void> {
    std::byte buffer[16];
    for (;;) {
      const Result<size_t> got = co_await exchange.ReadBody(buffer);
      if (got.ok() && *got > 0) continue;
      seen.set_value(got.status());
      break;
    }
    co_await exchange.Respond(200, "text/plain", "unheard");
  };
  Serve({}, false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + std::string(99, 'b')));
  peer.EndSending();
  EXPECT_EQ(seen.get_future().get().code(), Code::kUnavailable);
  EXPECT_EQ(peer.ReadStatus(), 200) << "a half-closed peer still hears the answer";
}

TEST_F(Hostile, SlowHeadIdleConnectionAndSilentPeerAreClosed) {
  Serve(Impatient(), false);
  RawPeer slow(server_->port()), idle(server_->port()), silent(server_->port());
  ASSERT_TRUE(idle.Send(kWho));
  EXPECT_EQ(idle.ReadStatus(), 200);
  // A byte now and then does not keep a head alive: its limit counts from its first byte.
  bool taken = true;
  for (int i = 0; taken && i < 2000; ++i) {
    taken = slow.Send(i == 0 ? "G" : "E") && server_->stats().connections_open > 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(slow.ReadToEnd());
  EXPECT_TRUE(idle.ReadToEnd());
  EXPECT_TRUE(silent.ReadToEnd());
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_EQ(server_->stats().requests, 1u);
  ExpectStillServing();
}

TEST_F(Hostile, EmptyLinesWithoutEndAreNoRequestAndDoNotProlongTheConnection) {
  Serve(Impatient(), false);
  RawPeer peer(server_->port());
  bool taken = true;
  for (int i = 0; taken && i < 2000; ++i) {
    taken = peer.Send("\r\n") && (i == 0 || server_->stats().connections_open > 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_FALSE(taken);
  EXPECT_EQ(server_->stats().requests, 0u);
  ExpectStillServing();
}

TEST_F(Hostile, StalledBodyIsADeadlineForTheHandler) {
  std::promise<Status> seen;
  routes_["/body"] = [&](Exchange& exchange) -> Awaitable<void> {
    const Result<std::string> body = co_await exchange.ReadAll(1000);
    seen.set_value(body.status());
  };
  Serve(Impatient(), false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome"));
  EXPECT_EQ(seen.get_future().get().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(peer.ReadToEnd());
}

// Each byte comes within the idle time, but the whole would take for ever.
TEST_F(Hostile, ABodyThatTricklesEndsLikeOneThatStalls) {
  std::promise<Status> seen;
  routes_["/body"] = [&](Exchange& exchange) -> Awaitable<void> {
    const Result<std::string> body = co_await exchange.ReadAll(1 << 20);
    seen.set_value(body.status());
  };
  ServerOptions options;
  options.body_idle_timeout = Seconds(0.3);
  options.min_body_bytes_per_s = 1 << 20;
  Serve(options, false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"));
  std::future<Status> ended = seen.get_future();
  int sent = 0;
  while (ended.wait_for(std::chrono::milliseconds(10)) != std::future_status::ready && peer.Send("x")) ++sent;
  EXPECT_EQ(ended.get().code(), Code::kDeadlineExceeded);
  EXPECT_GT(sent, 1) << "it was heard for a while";
  EXPECT_TRUE(peer.ReadToEnd());
  EXPECT_EQ(server_->stats().late_bodies, 1U);
}

TEST_F(Hostile, ABodyMayTakeItsTimeAsLongAsItKeepsItsPace) {
  ServerOptions options;
  options.body_idle_timeout = Seconds(5);
  options.min_body_bytes_per_s = 1000;
  Serve(options, false);
  RawPeer peer(server_->port());
  const std::string body = MakeBytes(200'000);
  ASSERT_TRUE(peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"));
  for (size_t i = 0; i < body.size(); i += 10'000) {
    ASSERT_TRUE(peer.Send(std::string_view(body).substr(i, 10'000)));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(peer.ReadAnswer().ends_with(body));
  EXPECT_EQ(server_->stats().late_bodies, 0U);
}

TEST_F(Hostile, AnAddressHasOnlySoManyConnections) {
  ServerOptions options;
  options.max_connections_per_address = 2;
  Serve(options, false);
  RawPeer first(server_->port());
  auto second = std::make_unique<RawPeer>(server_->port());
  ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 2; }));
  RawPeer third(server_->port());
  EXPECT_TRUE(third.ReadToEnd());
  EXPECT_EQ(server_->stats().refused_address, 1U);
  second.reset();
  ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 1; }));
  ExpectStillServing();
}

// Two places for handshakes, both taken by peers that say nothing: the next one gets the place of the older.
TEST_F(Hostile, SilentHandshakesMakeRoomForOthers) {
  ServerOptions options;
  options.max_handshakes = 2;
  options.handshake_timeout = Seconds(300);
  Serve(options);
  RawPeer silent(server_->port()), silent_too(server_->port());
  ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 2; }));
  EXPECT_TRUE(Send(Client(), {"GET", "/who"}).ok());
  EXPECT_TRUE(silent.ReadToEnd());
  EXPECT_EQ(server_->stats().refused_handshakes, 1U);
}

TEST_F(Hostile, PeerThatDoesNotReadItsAnswerIsCutOff) {
  ASSERT_TRUE(WriteFileAtomically(file_, MakeBytes(size_t{24} << 20)).ok());
  std::promise<Status> seen;
  routes_["/big"] = [&](Exchange& exchange) -> Awaitable<void> {
    seen.set_value(co_await exchange.RespondFile(200, "text/plain", file_, 0, size_t{24} << 20));
  };
  Serve(Impatient(), false);
  RawPeer peer(server_->port(), nullptr, /*receive_buffer=*/4096);
  ASSERT_TRUE(peer.Send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_EQ(seen.get_future().get().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
}

TEST_F(Hostile, LongPollNoticesAPeerThatClosesOrResets) {
  std::atomic<int> waiting{0}, gone{0};
  routes_["/poll"] = [&](Exchange& exchange) -> Awaitable<void> {
    ++waiting;
    co_await exchange.WaitGone();
    ++gone;
  };
  Serve({}, false);
  for (int i = 1; i <= 2; ++i) {
    RawPeer peer(server_->port());
    ASSERT_TRUE(peer.Send("POST /poll HTTP/1.1\r\nHost: x\r\n\r\n"));
    ASSERT_TRUE(Eventually([&] { return waiting == i; }));
    if (i == 1) {
      peer.EndSending();
    } else {
      peer.Reset();
    }
    EXPECT_TRUE(Eventually([&] { return gone == i; }));
  }
}

TEST_F(Hostile, FileThatIsTooShortIsAnErrorBeforeTheHead) {
  ASSERT_TRUE(WriteFileAtomically(file_, "short").ok());
  routes_["/short"] = [&](Exchange& exchange) -> Awaitable<void> {
    const Status past = co_await exchange.RespondFile(200, "text/plain", file_, 3, 3);
    const Status none = co_await exchange.RespondFile(200, "text/plain", temp_.path() / "none", 0, 1);
    co_await exchange.Respond(200, "text/plain", past.ToString() + none.ToString());
  };
  Serve({}, false);
  RawPeer peer(server_->port());
  ASSERT_TRUE(peer.Send("GET /short HTTP/1.1\r\nHost: x\r\n\r\n"));
  const std::string answer = peer.ReadAnswer();
  EXPECT_THAT(answer, HasSubstr("OUT_OF_RANGE"));
  EXPECT_THAT(answer, HasSubstr("NOT_FOUND"));
}

TEST_F(Hostile, RubbishInsteadOfTlsFailsTheHandshakeOnly) {
  ServerOptions options;
  options.handshake_timeout = Seconds(0.1);
  Serve(options);
  {
    RawPeer rubbish(server_->port()), silent(server_->port()), http(server_->port());
    ASSERT_TRUE(rubbish.Send(MakeBytes(3000)));
    ASSERT_TRUE(http.Send(kWho));
    EXPECT_TRUE(rubbish.ReadToEnd());
    EXPECT_TRUE(http.ReadToEnd());
    EXPECT_TRUE(silent.ReadToEnd());
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().handshakes_failed == 3; }));
  EXPECT_TRUE(Send(Client(), {"GET", "/who"}).ok());
}

TEST_F(Hostile, OlderTlsIsRefused) {
  Serve();
  boost::asio::ssl::context old(boost::asio::ssl::context::tls_client);
  SSL_CTX_set_max_proto_version(old.native_handle(), TLS1_2_VERSION);
  SSL* ssl = SSL_new(old.native_handle());
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server_->port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  SSL_set_fd(ssl, fd);
  EXPECT_NE(SSL_connect(ssl), 1);
  SSL_free(ssl);
  ::close(fd);
}

TEST_F(Hostile, MutatedConversationsNeverStopTheServer) {
  ServerOptions options;
  options.header_timeout = options.keep_alive_timeout = options.body_idle_timeout = Seconds(0.02);
  Serve(options, false);
  const std::string seed =
      std::string(kWho) +
      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\nhello world"
      "HEAD /file HTTP/1.1\r\nHost: x\r\nRange: bytes=1-3\r\n\r\n";
  ASSERT_TRUE(WriteFileAtomically(file_, "0123456789").ok());
  std::mt19937 random(7);
  for (int round = 0; round < 400; ++round) {
    std::string bytes = seed;
    for (int edits = 1 + static_cast<int>(random() % 6); edits > 0; --edits) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
          break;
        default:
          bytes.insert(at, 1, "\r\n: 0-9"[random() % 8]);
      }
      if (bytes.empty()) bytes = "x";
    }
    RawPeer peer(server_->port());
    peer.Send(bytes);
    if (round % 2 == 0) {
      peer.Reset();
    } else {
      peer.EndSending();
      EXPECT_TRUE(peer.ReadToEnd());
    }
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
  ExpectStillServing();
}

}  // namespace
}  // namespace heddle::protocol
