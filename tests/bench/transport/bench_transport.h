// The round trip of the transport benchmark, two ways: every device fetches one blob and sends one back, over TLS 1.3
// on loopback. Receivers hash everything; the server writes uploads to disk with one fsync a file.
#pragma once

#include <filesystem>
#include <string>

namespace heddle::bench {

struct RoundTripOptions {
  int devices = 10;
  size_t bytes = size_t{16} << 20;
  std::filesystem::path directory;  // of the files that are written
  std::filesystem::path pki;        // with ca.crt, server.crt, server.key, device.crt, device.key
  std::filesystem::path blob;       // what is sent both ways; `bytes` long
  std::string blob_hex;             // its SHA-256
  int server_threads = 2;
  int client_threads = 2;
  bool sync = true;
  std::string tag;  // in the names of written files: another one writes new files instead of the old ones again
};

// Wall-clock and processor seconds from the moment that all devices are connected until the last upload was
// acknowledged. Throws std::runtime_error when anything fails, a hash included.
struct RoundTripTime {
  double wall = 0, cpu = 0;
};

// Blocking OpenSSL streams, two threads a connection, no HTTP: the yardstick.
RoundTripTime RunBareTls(const RoundTripOptions& options);
// protocol::Server and protocol::HttpClient.
RoundTripTime RunHeddleTls(const RoundTripOptions& options);

// Runs between the clocks.
class Stopwatch {
 public:
  Stopwatch();
  RoundTripTime Stop() const;

 private:
  RoundTripTime start_;
};

}  // namespace heddle::bench
