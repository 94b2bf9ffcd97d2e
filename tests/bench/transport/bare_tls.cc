// The yardstick: what OpenSSL and the kernel give to a plain program.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <barrier>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench_transport.h"
#include "common/digest.h"
#include "common/file.h"

namespace heddle::bench {
namespace {

constexpr size_t kPiece = size_t{256} << 10;

void Require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string("bare TLS: ") + what);
}

SSL_CTX* MakeContext(bool server, const RoundTripOptions& o) {
  SSL_CTX* context = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
  const std::string name = server ? "server" : "device";
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  Require(SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") == 1, "cipher suite");
  Require(SSL_CTX_use_certificate_chain_file(context, (o.pki / (name + ".crt")).c_str()) == 1, "certificate");
  Require(SSL_CTX_use_PrivateKey_file(context, (o.pki / (name + ".key")).c_str(), SSL_FILETYPE_PEM) == 1, "key");
  Require(SSL_CTX_load_verify_locations(context, (o.pki / "ca.crt").c_str(), nullptr) == 1, "authority");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return context;
}

void WriteAll(SSL* ssl, const std::byte* data, size_t size) {
  size_t n = 0;
  Require(SSL_write_ex(ssl, data, size, &n) == 1 && n == size, "write");
}

// Fills the buffer as far as `want` goes.
size_t ReadSome(SSL* ssl, std::byte* data, size_t want) {
  size_t got = 0;
  while (got < want) {
    size_t n = 0;
    Require(SSL_read_ex(ssl, data + got, want - got, &n) == 1, "read");
    got += n;
  }
  return got;
}

void SendFile(SSL* ssl, const RoundTripOptions& o, std::vector<std::byte>& buffer) {
  UniqueFd fd(::open(o.blob.c_str(), O_RDONLY | O_CLOEXEC));
  for (size_t sent = 0; sent < o.bytes;) {
    const ssize_t n = ::pread(fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(sent));
    Require(n > 0, "pread");
    WriteAll(ssl, buffer.data(), static_cast<size_t>(n));
    sent += static_cast<size_t>(n);
  }
}

void ServeOne(SSL* ssl, const RoundTripOptions& o, int device) {
  std::vector<std::byte> buffer(kPiece);
  ReadSome(ssl, buffer.data(), 1);  // the request
  SendFile(ssl, o, buffer);
  UniqueFd out(::open((o.directory / ("bare-" + o.tag + std::to_string(device))).c_str(),
                      O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  Sha256Hasher hasher;
  for (size_t done = 0; done < o.bytes;) {
    const size_t n = ReadSome(ssl, buffer.data(), std::min(kPiece, o.bytes - done));
    hasher.Update(std::span<const std::byte>(buffer.data(), n));
    Require(::write(out.get(), buffer.data(), n) == static_cast<ssize_t>(n), "file");
    done += n;
  }
  if (o.sync) Require(::fsync(out.get()) == 0, "fsync");
  Require(hasher.Finish().ToHex() == o.blob_hex, "hash of an upload");
  WriteAll(ssl, buffer.data(), 1);  // the acknowledgement
}

void RunDevice(SSL* ssl, const RoundTripOptions& o) {
  std::vector<std::byte> buffer(kPiece);
  WriteAll(ssl, buffer.data(), 1);
  Sha256Hasher hasher;
  for (size_t done = 0; done < o.bytes;) {
    const size_t n = ReadSome(ssl, buffer.data(), std::min(kPiece, o.bytes - done));
    hasher.Update(std::span<const std::byte>(buffer.data(), n));
    done += n;
  }
  Require(hasher.Finish().ToHex() == o.blob_hex, "hash of a download");
  SendFile(ssl, o, buffer);
  ReadSome(ssl, buffer.data(), 1);
}

struct Listener {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  Listener() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    Require(::bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && ::listen(fd, 128) == 0, "listen");
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  }
  ~Listener() { ::close(fd); }
};

}  // namespace

RoundTripTime RunBareTls(const RoundTripOptions& o) {
  SSL_CTX* server = MakeContext(true, o);
  SSL_CTX* client = MakeContext(false, o);
  Listener listener;
  std::barrier ready(2 * o.devices + 1), done(2 * o.devices + 1);
  std::mutex mutex;
  std::string failure;
  const auto run = [&](bool is_server, int device) {
    UniqueFd fd(is_server ? ::accept(listener.fd, nullptr, nullptr) : ::socket(AF_INET, SOCK_STREAM, 0));
    SSL* ssl = SSL_new(is_server ? server : client);
    bool arrived = false;
    try {
      if (!is_server) {
        Require(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&listener.address), sizeof listener.address) == 0,
                "connect");
      }
      const int on = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      SSL_set_fd(ssl, fd.get());
      Require((is_server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1, "handshake");
      arrived = true;
      ready.arrive_and_wait();
      is_server ? ServeOne(ssl, o, device) : RunDevice(ssl, o);
    } catch (const std::exception& error) {
      std::lock_guard lock(mutex);
      failure = error.what();
      if (!arrived) static_cast<void>(ready.arrive());
    }
    SSL_free(ssl);
    static_cast<void>(done.arrive());
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < o.devices; ++i) {
    threads.emplace_back(run, true, i);
    threads.emplace_back(run, false, i);
  }
  ready.arrive_and_wait();
  Stopwatch watch;
  done.arrive_and_wait();
  const RoundTripTime time = watch.Stop();
  for (std::thread& thread : threads) thread.join();
  SSL_CTX_free(server);
  SSL_CTX_free(client);
  if (!failure.empty()) throw std::runtime_error(failure);
  return time;
}

}  // namespace heddle::bench
