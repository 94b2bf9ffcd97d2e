// Server and client together, over TLS 1.3 with certificates of both ends.
#include <gmock/gmock.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <future>

#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "raw_peer.h"
#include "transport_fixture.h"

namespace heddle::protocol {
namespace {

namespace asio = boost::asio;
using asio::experimental::awaitable_operators::operator||;
using testing::HasSubstr;
using testing::Not;

class Transport : public TransportTest {};

TEST_F(Transport, HandlerSeesTheNameAndSerialOfTheDevicesCertificate) {
  Serve();
  const auto answer = Send(Client(), {"GET", "/who"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200u);
  EXPECT_EQ(answer->body, "yes phone-1 " + serial_);
}

TEST_F(Transport, PeerWithoutCertificateIsLetThroughButNotAuthenticated) {
  Serve();
  const auto answer = Send(Client(""), {"GET", "/who"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "no  ");
}

TEST_F(Transport, PostReturnsTheBodyOverOneConnection) {
  Serve();
  HttpClient& client = Client();
  for (size_t size : {size_t{0}, size_t{1}, size_t{4096}, size_t{1} << 20}) {
    const std::string body = MakeBytes(size);
    const auto answer = Send(client, {"POST", "/echo", body});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 200u);
    EXPECT_EQ(answer->body, body);
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1u);
  EXPECT_EQ(server_->stats().requests, 4u);
  EXPECT_GT(client.bytes_in(), size_t{1} << 20);
  EXPECT_GT(client.bytes_out(), size_t{1} << 20);
}

TEST_F(Transport, DownloadAndUploadKeepEveryByte) {
  Serve();
  const std::string bytes = MakeBytes((3u << 20) + 17);
  ASSERT_TRUE(WriteFileAtomically(file_, bytes).ok());
  HttpClient& client = Client();
  Sha256Hasher hasher;
  const auto copy = temp_.path() / "copy";
  const auto download = Await(client_threads_.io(), client.DownloadTo("/file", copy, 0, bytes.size(), &hasher));
  ASSERT_TRUE(download.ok()) << download.status();
  EXPECT_EQ(download->status, 200u);
  EXPECT_EQ(download->bytes, bytes.size());
  EXPECT_EQ(hasher.Finish(), Sha256(bytes));
  EXPECT_EQ(ReadAllOf(copy), bytes);
  const auto upload = Await(client_threads_.io(), client.SendFile({"PATCH", "/upload"}, copy, 5, bytes.size() - 5));
  ASSERT_TRUE(upload.ok()) << upload.status();
  EXPECT_EQ(upload->status, 204u);
  EXPECT_EQ(ReadAllOf(uploaded_), bytes.substr(5));
}

TEST_F(Transport, DownloadResumesAtAnOffset) {
  Serve();
  const std::string bytes = MakeBytes(700'000);
  ASSERT_TRUE(WriteFileAtomically(file_, bytes).ok());
  const auto copy = temp_.path() / "copy";
  // The file on disk is longer than what was hashed: the rest is not trusted and fetched again.
  ASSERT_TRUE(WriteFileAtomically(copy, bytes.substr(0, 300'000) + "unhashed rubbish").ok());
  Sha256Hasher hasher;
  hasher.Update(std::string_view(bytes).substr(0, 300'000));
  std::vector<uint64_t> progress;
  const auto download = Await(client_threads_.io(), Client().DownloadTo("/file", copy, 300'000, bytes.size(), &hasher,
                                                                        [&](uint64_t at) { progress.push_back(at); }));
  ASSERT_TRUE(download.ok()) << download.status();
  EXPECT_EQ(download->status, 206u);
  EXPECT_EQ(download->bytes, 400'000u);
  EXPECT_EQ(hasher.Finish(), Sha256(bytes));
  EXPECT_EQ(ReadAllOf(copy), bytes);
  ASSERT_FALSE(progress.empty());
  EXPECT_EQ(progress.back(), bytes.size());
}

TEST_F(Transport, DownloadSkipsWhatItHasWhenTheServerIgnoresRange) {
  const std::string bytes = MakeBytes(700'000);
  routes_["/whole"] = [&](Exchange& exchange) -> Awaitable<void> {
    co_await exchange.Respond(200, "application/octet-stream", bytes);
  };
  Serve();
  const auto copy = temp_.path() / "copy";
  ASSERT_TRUE(WriteFileAtomically(copy, bytes.substr(0, 300'000)).ok());
  const auto download =
      Await(client_threads_.io(), Client().DownloadTo("/whole", copy, 300'000, bytes.size(), nullptr));
  ASSERT_TRUE(download.ok()) << download.status();
  EXPECT_EQ(download->bytes, 400'000u);
  EXPECT_EQ(ReadAllOf(copy), bytes);
}

TEST_F(Transport, DownloadBeyondItsBoundIsRefusedBeforeAByteIsWritten) {
  Serve();
  ASSERT_TRUE(WriteFileAtomically(file_, MakeBytes(1000)).ok());
  const auto copy = temp_.path() / "copy";
  const auto download = Await(client_threads_.io(), Client().DownloadTo("/file", copy, 0, 999, nullptr));
  EXPECT_EQ(download.status().code(), Code::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(copy));
}

TEST_F(Transport, RefusedDownloadBringsTheRefusalsBodyAndKeepsTheConnection) {
  Serve();
  HttpClient& client = Client();
  const auto copy = temp_.path() / "copy";
  const auto download = Await(client_threads_.io(), client.DownloadTo("/nowhere", copy, 0, 999, nullptr));
  ASSERT_TRUE(download.ok()) << download.status();
  EXPECT_EQ(download->status, 404u);
  EXPECT_EQ(download->refusal.body, "nothing at /nowhere");
  EXPECT_FALSE(std::filesystem::exists(copy));
  EXPECT_TRUE(Send(client, {"GET", "/who"}).ok());
  EXPECT_EQ(server_->stats().connections_accepted, 1u);
}

TEST_F(Transport, DownloadThatBreaksKeepsWhatCameAndResumes) {
  Serve();
  const std::string bytes = MakeBytes(size_t{32} << 20);
  ASSERT_TRUE(WriteFileAtomically(file_, bytes).ok());
  HttpClient& client = Client();
  Sha256Hasher hasher;
  const auto copy = temp_.path() / "copy";
  bool closed = false;
  const auto broken =
      Await(client_threads_.io(), client.DownloadTo("/file", copy, 0, bytes.size(), &hasher, [&](uint64_t) {
        if (!std::exchange(closed, true)) server_->CloseBySerial(serial_);
        // Long enough for the server to be closed while most of the body is still to come.
        if (server_->stats().connections_open > 0) Eventually([&] { return server_->stats().connections_open == 0; });
      }));
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.status().code(), Code::kUnavailable) << broken.status();
  const uint64_t have = std::filesystem::file_size(copy);
  EXPECT_GT(have, 0u);
  EXPECT_LT(have, bytes.size());
  const auto rest = Await(client_threads_.io(), client.DownloadTo("/file", copy, have, bytes.size(), &hasher));
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(rest->bytes, bytes.size() - have);
  EXPECT_EQ(hasher.Finish(), Sha256(bytes));
}

TEST_F(Transport, HeadSendsTheLengthWithoutTheBody) {
  Serve();
  ASSERT_TRUE(WriteFileAtomically(file_, MakeBytes(100'000)).ok());
  HttpClient& client = Client();
  for (const char* path : {"/file", "/who"}) {
    const auto answer = Send(client, {"HEAD", path});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 200u);
    EXPECT_TRUE(answer->body.empty());
    EXPECT_NE(answer->Header("content-length").value_or("0"), "0");
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1u);
}

TEST_F(Transport, HeadersOfAnswersCannotBeSplit) {
  routes_["/split"] = [](Exchange& exchange) -> Awaitable<void> {
    Headers headers;
    headers.emplace_back("X-Name", "a\r\nX-Evil: 1");
    co_await exchange.Respond(200, "text/plain", "ok", headers);
  };
  Serve();
  const auto answer = Send(Client(), {"GET", "/split"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->Header("x-name"), "aX-Evil: 1");
  EXPECT_FALSE(answer->Header("X-Evil"));
}

TEST_F(Transport, QueryAndPathAreDecoded) {
  routes_["/a b"] = [](Exchange& exchange) -> Awaitable<void> {
    co_await exchange.Respond(200, "text/plain",
                              exchange.Query("x").value_or("none") + "|" + exchange.Query("y").value_or("none"));
  };
  Serve();
  const auto answer = Send(Client(), {"GET", "/a%20b?w=1&x=%26+%3d"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "& =|none");
}

// ---- answers that go wrong ----

TEST_F(Transport, HandlerThatThrowsOrForgetsIsAnsweredWithInternal) {
  routes_["/throws"] = [](Exchange&) -> Awaitable<void> {
    throw std::runtime_error("boom");
    co_return;
  };
  routes_["/forgets"] = [](Exchange&) -> Awaitable<void> { co_return; };
  Serve();
  HttpClient& client = Client();
  for (const char* path : {"/throws", "/forgets"}) {
    const auto answer = Send(client, {"GET", path});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 500u);
    const auto refusal = ParseMessage<v1::Refusal>(answer->body);
    ASSERT_TRUE(refusal.ok());
    EXPECT_EQ(refusal->reason(), v1::REFUSAL_REASON_INTERNAL);
    EXPECT_THAT(refusal->message(), Not(HasSubstr("boom"))) << "insides do not go to peers";
  }
  EXPECT_EQ(server_->stats().failures, 2u);
}

TEST_F(Transport, SecondAnswerToOneRequestIsRefused) {
  std::promise<Status> second;
  routes_["/twice"] = [&](Exchange& exchange) -> Awaitable<void> {
    co_await exchange.Respond(200, "text/plain", "first");
    second.set_value(co_await exchange.Respond(200, "text/plain", "second"));
  };
  Serve();
  HttpClient& client = Client();
  EXPECT_EQ(Send(client, {"GET", "/twice"})->body, "first");
  EXPECT_EQ(second.get_future().get().code(), Code::kFailedPrecondition);
  EXPECT_EQ(Send(client, {"GET", "/who"})->status, 200u);
}

TEST_F(Transport, AnswerThatComesBeforeTheBodyIsThroughReachesTheClient) {
  routes_["/full"] = [](Exchange& exchange) -> Awaitable<void> {
    co_await exchange.Respond(503, "text/plain", "no room");
  };
  Serve();
  const std::string bytes = MakeBytes(size_t{48} << 20);
  ASSERT_TRUE(WriteFileAtomically(file_, bytes).ok());
  HttpClient& client = Client();
  const auto upload = Await(client_threads_.io(), client.SendFile({"POST", "/full"}, file_, 0, bytes.size()));
  ASSERT_TRUE(upload.ok()) << upload.status();
  EXPECT_EQ(upload->status, 503u);
  EXPECT_EQ(upload->body, "no room");
  const auto next = Send(client, {"GET", "/who"});
  ASSERT_TRUE(next.ok()) << next.status();
}

TEST_F(Transport, AnswerLargerThanTheClientsBoundIsRefused) {
  Serve();
  HttpRequest request("POST", "/echo", MakeBytes(5000));
  request.max_body = 4999;
  HttpClient& client = Client();
  EXPECT_EQ(Send(client, request).status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Send(client, {"GET", "/who"}).ok()) << "the next call gets a fresh connection";
}

TEST_F(Transport, AnswerThatDoesNotComeInTimeIsADeadline) {
  routes_["/slow"] = [](Exchange& exchange) -> Awaitable<void> { co_await exchange.WaitGone(); };
  Serve();
  HttpRequest request("GET", "/slow");
  request.answer_timeout = Seconds(0.05);
  EXPECT_EQ(Send(Client(), request).status().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
}

TEST_F(Transport, NobodyThereIsUnavailable) {
  Serve();
  ClientOptions options = OptionsFor();
  server_->Stop(Seconds(1));
  const auto answer = Send(MakeClient(options), {"GET", "/who"});
  EXPECT_EQ(answer.status().code(), Code::kUnavailable);
  EXPECT_THAT(answer.status().message(), HasSubstr("127.0.0.1 port " + std::to_string(options.port)));
}

TEST_F(Transport, KeptConnectionThatTheServerClosedIsOpenedAgain) {
  ServerOptions options;
  options.keep_alive_timeout = Seconds(0.25);  // enough for a request to begin, also on a slow machine
  Serve(options);
  HttpClient& client = Client();
  for (uint64_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(Send(client, {"GET", "/who"}).ok());
    ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
    EXPECT_EQ(server_->stats().connections_accepted, i);
  }
}

TEST_F(Transport, ConnectionsBeyondTheLimitAreClosed) {
  ServerOptions options;
  options.max_connections = 1;
  Serve(options);
  ASSERT_TRUE(Send(Client(), {"GET", "/who"}).ok());
  EXPECT_EQ(Send(Client(), {"GET", "/who"}).status().code(), Code::kUnavailable);
  clients_.clear();
  ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_TRUE(Send(Client(), {"GET", "/who"}).ok());
}

// ---- long polls, cancelling, stopping ----

TEST_F(Transport, LongPollIsAnsweredAtOnceAndWaitGoneNoticesACancelledOne) {
  std::atomic<int> gone{0}, waiting{0};
  std::mutex mutex;
  std::vector<std::shared_ptr<asio::steady_timer>> polls;
  routes_["/poll"] = [&](Exchange& exchange) -> Awaitable<void> {
    auto timer = std::make_shared<asio::steady_timer>(co_await asio::this_coro::executor, std::chrono::hours(1));
    {
      std::lock_guard lock(mutex);
      polls.push_back(timer);
    }
    ++waiting;
    boost::system::error_code error;
    const auto first =
        co_await (timer->async_wait(asio::redirect_error(asio::use_awaitable, error)) || exchange.WaitGone());
    if (first.index() == 1) {
      ++gone;
    } else {
      co_await exchange.Respond(200, "text/plain", "work");
    }
  };
  Serve();
  HttpClient& client = Client();
  auto answer = std::async(std::launch::async, [&] { return Send(client, {"POST", "/poll"}); });
  ASSERT_TRUE(Eventually([&] { return waiting == 1; }));
  asio::post(polls[0]->get_executor(), [&] { polls[0]->cancel(); });
  const auto first = answer.get();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->body, "work");
  EXPECT_EQ(gone, 0);

  answer = std::async(std::launch::async, [&] { return Send(client, {"POST", "/poll"}); });
  ASSERT_TRUE(Eventually([&] { return waiting == 2; }));
  asio::post(client_threads_.io(), [&] { client.Cancel(); });
  EXPECT_EQ(answer.get().status().code(), Code::kCancelled);
  EXPECT_TRUE(Eventually([&] { return gone == 1; }));
  EXPECT_TRUE(Send(client, {"GET", "/who"}).ok()) << "a cancelled client can go on";
}

TEST_F(Transport, CallInACancelledCoroutineEndsAndTheClientCanGoOn) {
  routes_["/never"] = [](Exchange& exchange) -> Awaitable<void> { co_await exchange.WaitGone(); };
  Serve();
  HttpClient& client = Client();
  const auto raced = [&]() -> Awaitable<int> {
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(30));
    HttpRequest request("GET", "/never");
    auto call = [&]() -> Awaitable<void> { auto ignored = co_await client.Send(request); };
    const auto first = co_await (call() || timer.async_wait(asio::use_awaitable));
    co_return static_cast<int>(first.index());
  };
  EXPECT_EQ(Await(client_threads_.io(), raced()), 1);
  EXPECT_TRUE(Send(client, {"GET", "/who"}).ok());
}

TEST_F(Transport, PipelinedRequestDuringALongPollIsNotMistakenForAnEndAndNotEaten) {
  std::atomic<bool> release{false};
  routes_["/poll"] = [&](Exchange& exchange) -> Awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    auto released = [&]() -> Awaitable<void> {
      while (!release) {
        timer.expires_after(std::chrono::milliseconds(5));
        co_await timer.async_wait(asio::use_awaitable);
      }
    };
    const auto first = co_await (released() || exchange.WaitGone());
    co_await exchange.Respond(200, "text/plain", first.index() == 0 ? "released" : "gone");
  };
  for (const bool tls : {false, true}) {
    SCOPED_TRACE(tls ? "TLS" : "plain");
    release = false;
    Serve({}, tls);
    const auto context = pki_.ClientTls("phone-1");
    RawPeer peer(server_->port(), tls ? context.get() : nullptr);
    ASSERT_TRUE(peer.Send("POST /poll HTTP/1.1\r\nHost: x\r\n\r\n"));
    ASSERT_TRUE(Eventually([&] { return server_->stats().requests == 1; }));
    ASSERT_TRUE(peer.Send("GET /who HTTP/1.1\r\nHost: x\r\n\r\n"));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time to be mistaken in
    release = true;
    EXPECT_THAT(peer.ReadAnswer(), HasSubstr("released"));
    EXPECT_THAT(peer.ReadAnswer(), HasSubstr(tls ? "yes phone-1" : "no "));
  }
}

TEST_F(Transport, StopWakesLongPollsSoThatTheyCanAnswer) {
  std::atomic<int> waiting{0};
  routes_["/poll"] = [&](Exchange& exchange) -> Awaitable<void> {
    ++waiting;
    co_await exchange.WaitGone();
    if (exchange.stopping()) co_await exchange.Respond(503, "text/plain", "going down");
  };
  Serve();
  HttpClient& client = Client();
  auto answer = std::async(std::launch::async, [&] { return Send(client, {"POST", "/poll"}); });
  ASSERT_TRUE(Eventually([&] { return waiting == 1; }));
  server_->Stop(Seconds(30));  // far beyond this test's time limit: the poll must end by itself
  const auto got = answer.get();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->status, 503u);
  EXPECT_EQ(server_->stats().connections_open, 0u);
}

TEST_F(Transport, StopCutsOffAHandlerThatHangs) {
  std::atomic<bool> hanging{false}, unwound{false};
  routes_["/hang"] = [&](Exchange&) -> Awaitable<void> {
    struct Unwound {
      ~Unwound() { flag = true; }
      std::atomic<bool>& flag;
    } guard{unwound};
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::hours(1));
    hanging = true;
    co_await timer.async_wait(asio::use_awaitable);
  };
  Serve();
  HttpClient& client = Client();
  auto answer = std::async(std::launch::async, [&] { return Send(client, {"GET", "/hang"}); });
  ASSERT_TRUE(Eventually([&] { return hanging.load(); }));
  server_->Stop(Seconds(0.02));
  EXPECT_TRUE(unwound);
  EXPECT_EQ(answer.get().status().code(), Code::kUnavailable);
  EXPECT_EQ(server_->stats().connections_open, 0u);
}

TEST_F(Transport, StopEndsIdleConnectionsAtOnceAndCanBeRepeated) {
  Serve();
  ASSERT_TRUE(Send(Client(), {"GET", "/who"}).ok());
  ASSERT_TRUE(Send(Client(""), {"GET", "/who"}).ok());
  server_->Stop(Seconds(30));
  EXPECT_EQ(server_->stats().connections_open, 0u);
  server_->Stop(Seconds(30));
}

TEST_F(Transport, StartTellsWhatIsWrongWithTheAddress) {
  Serve();
  const auto start = [&](const std::string& address, uint16_t port) {
    ServerOptions options;
    options.address = address;
    options.port = port;
    return Server(server_threads_.io(), options, [](Exchange&) -> Awaitable<void> { co_return; }).Start();
  };
  EXPECT_EQ(start("127.0.0.1", server_->port()).code(), Code::kAlreadyExists);
  EXPECT_EQ(start("no-address", 0).code(), Code::kInvalidArgument);
  EXPECT_EQ(start("192.0.2.1", 0).code(), Code::kInvalidArgument) << "not an address of this machine";
}

// ---- certificates ----

TEST_F(Transport, DeviceOfAnotherAuthorityIsRefusedByTheServer) {
  Serve();
  Pki other("Another authority");
  other.Enrol("phone-1");
  ClientTlsOptions tls;
  tls.ca_pem = pki_.authority().certificate_pem();
  tls.certificate = other.dir() / "phone-1.crt";
  tls.key = other.dir() / "phone-1.key";
  ClientOptions options = OptionsFor();
  options.tls = Pki::Value(MakeClientTls(tls));
  const auto answer = Send(MakeClient(options), {"GET", "/who"});
  EXPECT_EQ(answer.status().code(), Code::kUnauthenticated) << answer.status();
  EXPECT_TRUE(Eventually([&] { return server_->stats().handshakes_failed == 1; }));
}

TEST_F(Transport, ServerOfAnotherAuthorityIsRefusedByTheDevice) {
  Serve();
  Pki other("Another authority");
  other.Enrol("phone-1");
  ClientOptions options = OptionsFor();
  options.tls = other.ClientTls("phone-1");
  const auto answer = Send(MakeClient(options), {"GET", "/who"});
  EXPECT_EQ(answer.status().code(), Code::kUnauthenticated) << answer.status();
  EXPECT_EQ(server_->stats().requests, 0u);
}

TEST_F(Transport, ServerUnderAnotherNameIsRefusedByTheDevice) {
  Serve();
  for (const char* name : {"example.org", "127.0.0.2"}) {
    ClientOptions options = OptionsFor();
    options.server_name = name;
    EXPECT_EQ(Send(MakeClient(options), {"GET", "/who"}).status().code(), Code::kUnauthenticated) << name;
  }
  ClientOptions options = OptionsFor();
  options.server_name = "";  // then it is the host, here an address
  EXPECT_TRUE(Send(MakeClient(options), {"GET", "/who"}).ok());
}

TEST_F(Transport, EnrolmentTrustsThePinnedAuthorityOnly) {
  Serve();
  const auto with_pin = [&](const std::string& fingerprint) {
    ClientTlsOptions tls;
    tls.pinned_ca_fingerprint = fingerprint;
    ClientOptions options = OptionsFor();
    options.tls = Pki::Value(MakeClientTls(tls));
    options.verify_name = false;
    return Send(MakeClient(options), {"GET", "/who"});
  };
  const auto good = with_pin(pki_.authority().fingerprint());
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->body, "no  ");
  EXPECT_EQ(with_pin(Pki("Other").authority().fingerprint()).status().code(), Code::kUnauthenticated);
  ClientTlsOptions nothing;
  EXPECT_EQ(MakeClientTls(nothing).status().code(), Code::kInvalidArgument);
  nothing.pinned_ca_fingerprint = "not hex";
  EXPECT_EQ(MakeClientTls(nothing).status().code(), Code::kInvalidArgument);
}

TEST_F(Transport, ExpiredDeviceIsRefusedAlsoWhenItResumesItsSession) {
  pki_.Enrol("short", Seconds(2.0));  // at least one of them is left when it is used
  Serve();
  HttpClient& client = Client("short");
  const auto before = Send(client, {"GET", "/who"});
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_THAT(before->body, HasSubstr("yes short"));
  std::this_thread::sleep_for(std::chrono::milliseconds(3100));  // certificates count whole seconds
  asio::post(client_threads_.io(), [&] { client.Close(); });
  // The ticket spares the handshake its certificates, so it succeeds; the name in it has run out all the same.
  const auto resumed = Send(client, {"GET", "/who"});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->body, "no  ");
  EXPECT_EQ(Send(Client("short"), {"GET", "/who"}).status().code(), Code::kUnauthenticated);
}

TEST_F(Transport, RevokedSerialIsClosedAtOnceAndNoOther) {
  pki_.Enrol("phone-2");
  std::atomic<int> waiting{0}, gone{0};
  routes_["/poll"] = [&](Exchange& exchange) -> Awaitable<void> {
    ++waiting;
    co_await exchange.WaitGone();
    ++gone;
  };
  Serve();
  HttpClient &one = Client("phone-1"), &two = Client("phone-2");
  ASSERT_TRUE(Send(two, {"GET", "/who"}).ok());
  auto answer = std::async(std::launch::async, [&] { return Send(one, {"GET", "/poll"}); });
  ASSERT_TRUE(Eventually([&] { return waiting == 1; }));
  server_->CloseBySerial(serial_);
  EXPECT_EQ(answer.get().status().code(), Code::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return gone == 1; }));
  ASSERT_TRUE(Send(two, {"GET", "/who"}).ok());
  EXPECT_EQ(server_->stats().connections_accepted, 2u) << "the other device keeps its connection";
}

TEST_F(Transport, NewCertificatesServeNewConnections) {
  Serve();
  HttpClient& old = Client();
  ASSERT_TRUE(Send(old, {"GET", "/who"}).ok());
  Pki other("Another authority");
  other.Enrol("tablet");
  server_->ReplaceTls(other.ServerTls());
  ASSERT_TRUE(Send(old, {"GET", "/who"}).ok()) << "connections that stand are left alone";
  ClientOptions options = OptionsFor();
  options.tls = other.ClientTls("tablet");
  const auto answer = Send(MakeClient(options), {"GET", "/who"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(answer->body, HasSubstr("yes tablet"));
  EXPECT_EQ(Send(Client(), {"GET", "/who"}).status().code(), Code::kUnauthenticated);
}

TEST_F(Transport, ManyDevicesAtOnceKeepTheirBytesApart) {
  Serve();
  const std::string bytes = MakeBytes(size_t{2} << 20);
  ASSERT_TRUE(WriteFileAtomically(file_, bytes).ok());
  std::vector<std::future<void>> calls;
  for (int i = 0; i < 16; ++i) {
    HttpClient& client = Client();
    calls.push_back(asio::co_spawn(
        client_threads_.io(),
        [this, &client, &bytes, i]() -> Awaitable<void> {
          Sha256Hasher hasher;
          const auto copy = temp_.path() / ("copy-" + std::to_string(i));
          auto download = co_await client.DownloadTo("/file", copy, 0, bytes.size(), &hasher);
          EXPECT_TRUE(download.ok()) << download.status();
          EXPECT_EQ(hasher.Finish(), Sha256(bytes));
          const std::string own = MakeBytes(500'000, static_cast<uint64_t>(i) + 2);
          HttpRequest request("POST", "/echo", own);
          auto answer = co_await client.Send(request);
          EXPECT_TRUE(answer.ok()) << answer.status();
          EXPECT_TRUE(answer.ok() && answer->body == own);
        },
        asio::use_future));
  }
  for (auto& call : calls) call.get();
  EXPECT_EQ(server_->stats().connections_accepted, 16u);
}

}  // namespace
}  // namespace heddle::protocol
