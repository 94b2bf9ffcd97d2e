// The same round trip through the classes of protocol/transport, HTTP and all; the clients also write what they fetch
// to a file, as devices do.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <future>
#include <stdexcept>
#include <thread>

#include "bench_transport.h"
#include "protocol/transport/blocking.h"
#include "protocol/transport/client.h"
#include "protocol/transport/server.h"
#include "protocol/transport/tls.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
using protocol::Awaitable;

void Require(const Status& status) {
  if (!status.ok()) throw std::runtime_error("Heddle TLS: " + status.ToString());
}

struct Service {
  const RoundTripOptions& options;
  asio::thread_pool disk{4};
  std::atomic<int> next{0};

  Awaitable<Status> Receive(protocol::Exchange& exchange, int fd, Sha256Hasher& hasher) {
    std::vector<std::byte> buffer(protocol::kIoBufferBytes);
    for (;;) {
      Result<size_t> got = co_await exchange.ReadBody(buffer);
      if (!got.ok()) co_return got.status();
      if (*got == 0) break;
      hasher.Update(std::span<const std::byte>(buffer.data(), *got));
      if (::write(fd, buffer.data(), *got) != static_cast<ssize_t>(*got)) co_return ErrnoStatus(errno, "write");
    }
    if (!options.sync) co_return OkStatus();
    co_return co_await protocol::RunBlocking(
        disk.get_executor(), [fd] { return ::fsync(fd) == 0 ? OkStatus() : ErrnoStatus(errno, "fsync"); });
  }

  Awaitable<void> Handle(protocol::Exchange& exchange) {
    if (exchange.method() == "GET" && exchange.path() == "/blob") {
      co_await exchange.RespondFile(200, "application/octet-stream", options.blob, 0, options.bytes);
    } else if (exchange.method() == "POST") {
      const std::string name = "heddle-" + std::to_string(next.fetch_add(1));
      UniqueFd fd(::open((options.directory / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
      Sha256Hasher hasher;
      const Status status = co_await Receive(exchange, fd.get(), hasher);
      const bool good = status.ok() && hasher.Finish().ToHex() == options.blob_hex;
      co_await exchange.Respond(good ? 201 : 422, "text/plain", status.message());
    } else {
      co_await exchange.Respond(200, "text/plain", "here");
    }
  }
};

Awaitable<void> RunDevice(protocol::HttpClient& client, const RoundTripOptions& o, int device) {
  Sha256Hasher hasher;
  const std::filesystem::path file = o.directory / ("fetched-" + std::to_string(device));
  auto download = co_await client.DownloadTo("/blob", file, 0, o.bytes, &hasher);
  Require(download.status());
  if (download->bytes != o.bytes || hasher.Finish().ToHex() != o.blob_hex)
    throw std::runtime_error("Heddle TLS: hash of a download");
  protocol::HttpRequest request;
  request.method = "POST";
  request.target = "/upload";
  auto answer = co_await client.SendFile(request, file, 0, o.bytes);
  Require(answer.status());
  if (answer->status != 201) throw std::runtime_error("Heddle TLS: the upload was refused: " + answer->body);
}

Awaitable<void> Connect(protocol::HttpClient& client) {
  auto answer = co_await client.Send({});
  Require(answer.status());
}

struct Pool {
  asio::io_context io;
  std::vector<std::thread> threads;
  asio::executor_work_guard<asio::io_context::executor_type> work = asio::make_work_guard(io);
  explicit Pool(int count) {
    for (int i = 0; i < count; ++i) threads.emplace_back([this] { io.run(); });
  }
  ~Pool() {
    work.reset();
    io.stop();
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace

RoundTripTime RunHeddleTls(const RoundTripOptions& o) {
  auto ca = ReadFile(o.pki / "ca.crt");
  Require(ca.status());
  auto server_tls = protocol::MakeServerTls({o.pki / "server.crt", o.pki / "server.key", *ca});
  auto client_tls = protocol::MakeClientTls({*ca, "", o.pki / "device.crt", o.pki / "device.key"});
  Require(server_tls.status());
  Require(client_tls.status());
  Service service{o};
  Pool server_pool(o.server_threads), client_pool(o.client_threads);
  protocol::ServerOptions options;
  options.tls = *server_tls;
  protocol::Server server(server_pool.io, options, [&](protocol::Exchange& e) { return service.Handle(e); });
  Require(server.Start());

  std::vector<std::unique_ptr<protocol::HttpClient>> clients;
  std::vector<asio::any_io_executor> strands;
  const auto all = [&](auto make) {
    std::vector<std::future<void>> futures;
    for (int i = 0; i < o.devices; ++i)
      futures.push_back(asio::co_spawn(strands[static_cast<size_t>(i)], make(i), asio::use_future));
    for (std::future<void>& future : futures) future.get();
  };
  for (int i = 0; i < o.devices; ++i) {
    strands.emplace_back(asio::make_strand(client_pool.io));
    protocol::ClientOptions client;
    client.host = "127.0.0.1";
    client.port = server.port();
    client.tls = *client_tls;
    clients.push_back(std::make_unique<protocol::HttpClient>(strands.back(), client));
  }
  all([&](int i) { return Connect(*clients[static_cast<size_t>(i)]); });
  Stopwatch watch;
  all([&](int i) { return RunDevice(*clients[static_cast<size_t>(i)], o, i); });
  const RoundTripTime time = watch.Stop();
  clients.clear();
  server.Stop(Seconds(2));
  service.disk.join();
  return time;
}

}  // namespace heddle::bench
