#include "transport_fixture.h"

namespace heddle::protocol {
namespace {

Awaitable<void> Who(Exchange& exchange) {
  const Peer& peer = exchange.peer();
  const std::string text = (peer.authenticated ? "yes " : "no ") + peer.device + " " + peer.serial_hex;
  co_await exchange.Respond(200, "text/plain", text);
}

Awaitable<void> Echo(Exchange& exchange) {
  Result<std::string> body = co_await exchange.ReadAll(1 << 20);
  if (body.ok()) {
    co_await exchange.Respond(200, "application/octet-stream", *body);
  } else {
    co_await exchange.Respond(413, "text/plain", body.status().message());
  }
}

Awaitable<void> SendFile(Exchange& exchange, const std::filesystem::path& file) {
  const uint64_t size = std::filesystem::file_size(file);
  const auto range = ParseRange(exchange.Header("Range"), size);
  if (!range.ok()) {
    co_await exchange.Respond(416, "text/plain", "outside");
  } else if (*range) {
    const ByteRange r = **range;
    Headers headers;
    headers.emplace_back("Content-Range", "bytes " + std::to_string(r.offset) + "-" +
                                              std::to_string(r.offset + r.length - 1) + "/" + std::to_string(size));
    co_await exchange.RespondFile(206, "application/octet-stream", file, r.offset, r.length, headers);
  } else {
    co_await exchange.RespondFile(200, "application/octet-stream", file, 0, size);
  }
}

Awaitable<void> ReceiveFile(Exchange& exchange, const std::filesystem::path& file) {
  std::ofstream out(file, std::ios::binary);
  std::vector<std::byte> buffer(kIoBufferBytes);
  for (;;) {
    Result<size_t> got = co_await exchange.ReadBody(buffer);
    if (!got.ok()) co_return;
    if (*got == 0) break;
    out.write(reinterpret_cast<const char*>(buffer.data()), static_cast<std::streamsize>(*got));
  }
  out.close();
  co_await exchange.Respond(204, "", "");
}

}  // namespace

TransportTest::TransportTest() {
  serial_ = pki_.Enrol("phone-1");
  routes_["/who"] = Who;
  routes_["/echo"] = Echo;
  routes_["/file"] = [this](Exchange& exchange) { return SendFile(exchange, file_); };
  routes_["/upload"] = [this](Exchange& exchange) { return ReceiveFile(exchange, uploaded_); };
}

TransportTest::~TransportTest() {
  clients_.clear();
  if (server_) server_->Stop(Seconds(2));
}

void TransportTest::Serve(ServerOptions options, bool tls) {
  if (tls) options.tls = pki_.ServerTls();
  server_ =
      std::make_unique<Server>(server_threads_.io(), options, [this](Exchange& exchange) { return Handle(exchange); });
  const Status started = server_->Start();
  ASSERT_TRUE(started.ok()) << started;
}

ClientOptions TransportTest::OptionsFor(const std::string& device) {
  ClientOptions options;
  options.host = "127.0.0.1";
  options.port = server_->port();
  options.tls = pki_.ClientTls(device);
  options.server_name = "localhost";
  return options;
}

HttpClient& TransportTest::MakeClient(ClientOptions options) {
  clients_.push_back(std::make_unique<HttpClient>(client_threads_.io().get_executor(), std::move(options)));
  return *clients_.back();
}

HttpClient& TransportTest::Client(const std::string& device) { return MakeClient(OptionsFor(device)); }

Result<HttpResponse> TransportTest::Send(HttpClient& client, HttpRequest request) {
  return Await(client_threads_.io(), client.Send(std::move(request)));
}

Awaitable<void> TransportTest::Handle(Exchange& exchange) {
  const auto route = routes_.find(exchange.path());
  if (route != routes_.end()) {
    co_await route->second(exchange);
  } else {
    co_await exchange.Respond(404, "text/plain", "nothing at " + exchange.path());
  }
}

}  // namespace heddle::protocol
