// heddle_bench_transport: how much of bare TLS the transport keeps. The two ways take turns in one run; figures are
// medians. See bench_transport.h.
#include "bench_transport.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "common/digest.h"
#include "common/file.h"
#include "common/random.h"
#include "protocol/transport/tls.h"

namespace heddle::bench {
namespace {

void Require(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

void MakePki(const std::filesystem::path& directory) {
  const Duration year = std::chrono::hours(24 * 365);
  Require(protocol::CertificateAuthority::Create(directory, "Heddle benchmark", year));
  auto authority = protocol::CertificateAuthority::Load(directory);
  Require(authority.status());
  Require(authority->IssueServer(directory, {"127.0.0.1"}, year));
  Require(protocol::GenerateKeyFile(directory / "device.key"));
  auto request = protocol::MakeCsrDer(directory / "device.key", "device");
  Require(request.status());
  auto issued = authority->IssueDevice(*request, DeviceId("device"), year);
  Require(issued.status());
  Require(WriteFileAtomically(directory / "device.crt", issued->certificate_pem));
}

std::string MakeBlob(const std::filesystem::path& path, size_t bytes) {
  std::string blob(bytes, '\0');
  const PhiloxStream random(1);
  for (size_t i = 0; i < bytes; i += 4) {
    const uint32_t word = random.U32At(i / 4);
    for (size_t j = 0; j < 4 && i + j < bytes; ++j) blob[i + j] = static_cast<char>(word >> (8 * j));
  }
  Require(WriteFileAtomically(path, blob));
  return Sha256(blob).ToHex();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace

int Main(int argc, char** argv) {
  RoundTripOptions options;
  int runs = 5;
  size_t megabytes = 16;
  bool json = false, no_sync = false;
  std::string only;
  options.directory = std::filesystem::temp_directory_path();
  CLI::App app("Round trip of blobs over TLS on loopback: Heddle's transport against bare blocking OpenSSL streams");
  app.add_option("--devices", options.devices, "devices at once")->check(CLI::Range(1, 1000));
  app.add_option("--mb", megabytes, "MiB down and up per device")->check(CLI::Range(1, 1024));
  app.add_option("--runs", runs, "runs of each, taken in turns")->check(CLI::Range(1, 100));
  app.add_option("--dir", options.directory, "folder (on the disk to be measured) for a temporary subfolder");
  app.add_option("--server-threads", options.server_threads, "io threads of the server")->check(CLI::Range(1, 64));
  app.add_option("--client-threads", options.client_threads, "io threads of all clients")->check(CLI::Range(1, 64));
  app.add_option("--only", only, "bare or heddle, for profiling");
  app.add_flag("--no-sync", no_sync, "leave the fsync of uploads out, both ways");
  app.add_flag("--json", json, "print [{id,value,unit,target,better,pass}]");
  CLI11_PARSE(app, argc, argv);
  options.bytes = megabytes << 20;
  options.sync = !no_sync;
  options.directory /= "heddle-bench-transport-" + std::to_string(::getpid());
  struct Cleaner {
    std::filesystem::path path;
    ~Cleaner() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } cleaner{options.directory};
  options.pki = options.directory / "pki";
  options.blob = options.directory / "blob";
  Require(MakeDirectories(options.directory));
  MakePki(options.pki);
  options.blob_hex = MakeBlob(options.blob, options.bytes);

  std::vector<double> bare, heddle, ratios;
  for (int run = 0; run < runs; ++run) {
    RoundTripTime a, b;
    if (only != "heddle") a = RunBareTls(options);
    if (only != "bare") b = RunHeddleTls(options);
    std::fprintf(stderr, "run %d: bare %.3f s (cpu %.3f), heddle %.3f s (cpu %.3f)\n", run + 1, a.wall, a.cpu, b.wall,
                 b.cpu);
    bare.push_back(a.wall);
    heddle.push_back(b.wall);
    ratios.push_back(a.wall / b.wall);
  }
  const double ratio = Median(bare) / Median(heddle);
  if (json) {
    std::printf(
        "[{\"id\":\"transport.round_trip_ratio\",\"value\":%.4f,\"unit\":\"ratio\",\"target\":0.8,"
        "\"better\":\"higher\",\"pass\":%s},\n"
        " {\"id\":\"transport.round_trip_seconds\",\"value\":%.4f,\"unit\":\"s\",\"target\":null,"
        "\"better\":\"lower\",\"pass\":true},\n"
        " {\"id\":\"transport.bare_seconds\",\"value\":%.4f,\"unit\":\"s\",\"target\":null,"
        "\"better\":\"lower\",\"pass\":true}]\n",
        ratio, ratio >= 0.8 ? "true" : "false", Median(heddle), Median(bare));
  } else {
    std::printf("%d devices, %zu MiB down and up, median of %d runs each in turns\n", options.devices, megabytes, runs);
    std::printf("bare TLS streams   %.3f s\nHeddle transport   %.3f s\nrate kept          %.1f %%  (target 80 %%)\n",
                Median(bare), Median(heddle), 100 * ratio);
  }
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_transport: %s\n", error.what());
    return 1;
  }
}
