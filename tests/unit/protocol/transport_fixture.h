// A coordinator's authority, a server on a free port and clients, for the tests of the transport.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <thread>

#include "common/digest.h"
#include "common/file.h"
#include "protocol/transport/client.h"
#include "protocol/transport/server.h"
#include "protocol/transport/tls.h"
#include "tests/unit/common/eventually.h"

namespace heddle::protocol {

using heddle::Eventually;

// Throws away its folder at the end.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "heddle-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline constexpr Duration kYear = std::chrono::hours(365 * 24);

// A folder with an authority, a server identity and device identities.
class Pki {
 public:
  explicit Pki(const std::string& name = "Heddle test authority") {
    Check(CertificateAuthority::Create(dir(), name, kYear));
    Result<CertificateAuthority> loaded = CertificateAuthority::Load(dir());
    Check(loaded.status());
    authority_ = *std::move(loaded);
    Check(authority_->IssueServer(dir(), {"localhost", "127.0.0.1"}, kYear));
  }
  const std::filesystem::path& dir() const { return folder_.path(); }
  const CertificateAuthority& authority() const { return *authority_; }

  std::shared_ptr<boost::asio::ssl::context> ServerTls() const {
    return Value(MakeServerTls({dir() / "server.crt", dir() / "server.key", authority().certificate_pem()}));
  }
  // Enrols a device; its serial number.
  std::string Enrol(const std::string& device, Duration validity = kYear) const {
    Check(GenerateKeyFile(dir() / (device + ".key")));
    const std::string csr = Value(MakeCsrDer(dir() / (device + ".key"), device));
    const auto issued = Value(authority().IssueDevice(csr, DeviceId(device), validity));
    Check(WriteFileAtomically(dir() / (device + ".crt"), issued.certificate_pem));
    return issued.serial_hex;
  }
  // `device` empty: without a certificate.
  std::shared_ptr<boost::asio::ssl::context> ClientTls(const std::string& device = {}) const {
    ClientTlsOptions options;
    options.ca_pem = authority().certificate_pem();
    if (!device.empty()) {
      options.certificate = dir() / (device + ".crt");
      options.key = dir() / (device + ".key");
    }
    return Value(MakeClientTls(options));
  }

  template <typename T>
  static T Value(Result<T> result) {
    Check(result.status());
    return *std::move(result);
  }
  static void Check(const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.ToString());
  }

 private:
  TempDir folder_;
  std::optional<CertificateAuthority> authority_;
};

// An io_context with threads; joined at the end.
class Threads {
 public:
  explicit Threads(int count = 2) : work_(boost::asio::make_work_guard(io_)) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { io_.run(); });
  }
  ~Threads() { Join(); }
  void Join() {
    work_.reset();
    io_.stop();
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  boost::asio::io_context& io() { return io_; }

 private:
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::vector<std::thread> threads_;
};

// Runs a coroutine on `io` and waits for its value.
template <typename T>
T Await(boost::asio::io_context& io, Awaitable<T> coroutine) {
  std::optional<T> value;  // co_spawn itself wants values that can be made from nothing
  auto body = [&]() -> Awaitable<void> { value.emplace(co_await std::move(coroutine)); };
  boost::asio::co_spawn(io, body(), boost::asio::use_future).get();
  return *std::move(value);
}

// Reproducible bytes that do not repeat.
inline std::string MakeBytes(size_t size, uint64_t seed = 1) {
  std::string bytes(size, '\0');
  uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
  for (char& byte : bytes) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    byte = static_cast<char>(x);
  }
  return bytes;
}

inline std::string ReadAllOf(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A server whose answers each test gives by path, and clients that talk to it.
class TransportTest : public testing::Test {
 protected:
  TransportTest();
  ~TransportTest() override;

  void Serve(ServerOptions options = {}, bool tls = true);
  HttpClient& MakeClient(ClientOptions options);
  // A client with the device's certificate; empty: without any.
  HttpClient& Client(const std::string& device = "phone-1");
  ClientOptions OptionsFor(const std::string& device = "phone-1");
  Result<HttpResponse> Send(HttpClient& client, HttpRequest request);
  Awaitable<void> Handle(Exchange& exchange);

  Pki pki_;
  TempDir temp_;
  const std::filesystem::path file_ = temp_.path() / "file", uploaded_ = temp_.path() / "uploaded";
  std::string serial_;
  Threads server_threads_, client_threads_{1};
  std::map<std::string, Handler> routes_;
  std::unique_ptr<Server> server_;
  std::vector<std::unique_ptr<HttpClient>> clients_;
};

}  // namespace heddle::protocol
