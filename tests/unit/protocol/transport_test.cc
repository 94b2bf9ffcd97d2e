// Server and client together, over TLS 1.3 with certificates of both ends.
#include <gmock/gmock.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fstream>

#include "transport_fixture.h"

namespace heddle::protocol {
namespace {

namespace asio = boost::asio;
using testing::HasSubstr;

// A small service: what the tests ask for, by path.
class Transport : public testing::Test {
 protected:
  Transport() { serial_ = pki_.Enrol("phone-1"); }
  ~Transport() override {
    client_.reset();
    if (server_) server_->Stop(Seconds(2));
  }

  void Serve(ServerOptions options = {}) {
    options.tls = pki_.ServerTls();
    server_ = std::make_unique<Server>(server_threads_.io(), options,
                                       [this](Exchange& exchange) { return Handle(exchange); });
    ASSERT_TRUE(server_->Start().ok());
  }

  HttpClient& Client(const std::string& device = "phone-1") {
    ClientOptions options;
    options.host = "127.0.0.1";
    options.port = server_->port();
    options.tls = pki_.ClientTls(device);
    options.server_name = "localhost";
    client_ = std::make_unique<HttpClient>(client_threads_.io().get_executor(), options);
    return *client_;
  }

  Result<HttpResponse> Send(HttpClient& client, HttpRequest request) {
    return Await(client_threads_.io(), client.Send(std::move(request)));
  }

  virtual Awaitable<void> Handle(Exchange& exchange) {
    if (exchange.path() == "/who") {
      co_await exchange.Respond(200, "text/plain", exchange.peer().device + " " + exchange.peer().serial_hex);
    } else if (exchange.path() == "/echo") {
      Result<std::string> body = co_await exchange.ReadAll(1 << 20);
      if (!body.ok()) {
        co_await exchange.Respond(413, "text/plain", body.status().message());
      } else {
        co_await exchange.Respond(200, "application/octet-stream", *body);
      }
    } else if (exchange.path() == "/file") {
      const uint64_t size = std::filesystem::file_size(file_);
      const auto range = ParseRange(exchange.Header("Range"), size);
      if (!range.ok()) {
        co_await exchange.Respond(416, "text/plain", "outside");
      } else if (*range) {
        const ByteRange r = **range;
        Headers headers;
        headers.emplace_back("Content-Range", "bytes " + std::to_string(r.offset) + "-" +
                                                  std::to_string(r.offset + r.length - 1) + "/" + std::to_string(size));
        co_await exchange.RespondFile(206, "application/octet-stream", file_, r.offset, r.length, headers);
      } else {
        co_await exchange.RespondFile(200, "application/octet-stream", file_, 0, size);
      }
    } else if (exchange.path() == "/upload") {
      std::ofstream out(uploaded_, std::ios::binary);
      std::vector<std::byte> buffer(kIoBufferBytes);
      for (;;) {
        Result<size_t> got = co_await exchange.ReadBody(buffer);
        if (!got.ok()) co_return;
        if (*got == 0) break;
        out.write(reinterpret_cast<const char*>(buffer.data()), static_cast<std::streamsize>(*got));
      }
      out.close();
      co_await exchange.Respond(204, "", "");
    } else {
      co_await exchange.Respond(404, "text/plain", "nothing at " + exchange.path());
    }
  }

  Pki pki_;
  TempDir temp_;
  const std::filesystem::path file_ = temp_.path() / "file", uploaded_ = temp_.path() / "uploaded";
  std::string serial_;
  Threads server_threads_, client_threads_{1};
  std::unique_ptr<Server> server_;
  std::unique_ptr<HttpClient> client_;
};

TEST_F(Transport, HandlerSeesTheNameAndSerialOfTheDevicesCertificate) {
  Serve();
  const auto answer = Send(Client(), {"GET", "/who"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200u);
  EXPECT_EQ(answer->body, "phone-1 " + serial_);
}

TEST_F(Transport, PostReturnsTheBody) {
  Serve();
  HttpClient& client = Client();
  for (size_t size : {size_t{0}, size_t{1}, size_t{4096}, size_t{1} << 20}) {
    const std::string body = MakeBytes(size);
    const auto answer = Send(client, {"POST", "/echo", body});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 200u);
    EXPECT_EQ(answer->body, body);
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1u) << "the connection is kept alive";
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
  const auto upload = Await(client_threads_.io(), client.SendFile({"PATCH", "/upload"}, copy, 5,
                                                                  bytes.size() - 5));
  ASSERT_TRUE(upload.ok()) << upload.status();
  EXPECT_EQ(upload->status, 204u);
  EXPECT_EQ(ReadAllOf(uploaded_), bytes.substr(5));
}

}  // namespace
}  // namespace heddle::protocol
