// heddle-split-server: the server's half of split learning, with a WebSocket over TLS for devices.
#include <CLI/CLI.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <csignal>
#include <iostream>

#include "common/build_info.h"
#include "common/file.h"
#include "common/logging.h"
#include "coordinator/service/device_limits.h"
#include "coordinator/split/device_gate.h"
#include "coordinator/split/pump.h"
#include "coordinator/split/setup.h"
#include "model/memory/tensor_memory.h"
#include "model/transformer/blas_check.h"
#include "protocol/transport/frame_socket.h"
#include "protocol/transport/tls.h"

namespace heddle::coordinator {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

struct Options {
  std::string plan, folder, certificates, devices, port_file, compute_device;
  protocol::ListenerOptions listener;
  double handshake_timeout_s = 15, hello_timeout_s = 120, silence_timeout_s = 300;
  bool until_done = false;
};

// What a peer may make this process hold, by the plan (protocol/transport/frame_socket.h). The first frame of every
// connection is a hello.
void SetLimits(const protocol::SplitPlan& plan, uint64_t max_frame_bytes, const Options& options,
               protocol::ListenerOptions* listener) {
  listener->socket.max_frame_bytes = max_frame_bytes;
  listener->socket.handshake_timeout = Seconds(options.handshake_timeout_s);
  listener->first_frame_bytes = protocol::kMaxSplitControlBytes;
  listener->first_frame_timeout = Seconds(options.hello_timeout_s);
  listener->read_timeout = Seconds(options.silence_timeout_s);
  listener->max_in_flight = plan.schedule().MaxInFlight();
  listener->max_connections = size_t{4} * plan.max_sessions + 16;
}

// Of a frame that waits, beside its bytes.
constexpr uint64_t kFrameCost = 512;

// Of one device, over all its connections: what it may have on its way, and as much again that a connection which broke
// has left behind.
DeviceLimitOptions LimitsOfADevice(const protocol::SplitPlan& plan, uint64_t max_frame_bytes) {
  DeviceLimitOptions limits;
  limits.bytes_in_flight = 2 * plan.schedule().MaxInFlight() * (max_frame_bytes + kFrameCost);
  return limits;
}

void LogTheEnd(const SplitServer& server, const protocol::ListenerStats& stats) {
  const auto number = [](uint64_t value) { return static_cast<int64_t>(value); };
  Log(Severity::kInfo, "the split server ends",
      {{"round", number(server.round())},
       {"passes", number(server.passes())},
       {"connections", number(stats.accepted)},
       {"refused_full", number(stats.refused_full)},
       {"refused_address", number(stats.refused_address)},
       {"refused_handshakes", number(stats.refused_handshakes)},
       {"failed_handshakes", number(stats.failed_handshakes)},
       {"late_handshakes", number(stats.late_handshakes)},
       {"bad_requests", number(stats.bad_requests)},
       {"not_admitted", number(stats.not_admitted)},
       {"replaced", number(stats.replaced)},
       {"silent", number(stats.silent)},
       {"large_frames", number(stats.large_frames)},
       {"not_binary", number(stats.not_binary)},
       {"control_floods", number(stats.control_floods)},
       {"over_share", number(stats.over_share)}});
}

// The coordinator's database: the one that was named, or the one beside its certificates. Null: there is none.
Result<std::unique_ptr<DeviceGate>> OpenGate(const Options& options) {
  if (!options.devices.empty()) return DeviceGate::Open(options.devices);
  Result<std::unique_ptr<DeviceGate>> gate =
      DeviceGate::Open(fs::absolute(options.certificates).lexically_normal() / ".." / "coordinator.db");
  if (gate.status().code() != Code::kNotFound) return gate;
  Log(Severity::kWarning, "no coordinator's database beside the certificates: revoked devices are not turned away");
  return std::unique_ptr<DeviceGate>();
}

Status Run(Options options) {
  HEDDLE_ASSIGN_OR_RETURN(const protocol::SplitPlan plan, protocol::SplitPlan::LoadFile(options.plan));
  const fs::path certificates = options.certificates;
  HEDDLE_ASSIGN_OR_RETURN(const std::string authority, ReadFile(certificates / "ca.crt"));
  HEDDLE_ASSIGN_OR_RETURN(options.listener.tls, protocol::MakeServerTls({certificates / "server.crt",
                                                                         certificates / "server.key", authority}));
  HEDDLE_ASSIGN_OR_RETURN(SplitServerOptions server_options,
                          PrepareSplitServer(plan, options.folder, options.compute_device));
  HEDDLE_ASSIGN_OR_RETURN(const auto server, SplitServer::Make(std::move(server_options)));

  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceGate> gate, OpenGate(options));
  if (gate) options.listener.admits = [&gate](const protocol::Peer& peer) { return gate->Admits(peer); };

  SetLimits(plan, server->max_frame_bytes(), options, &options.listener);
  SystemClock clock;
  DeviceLimits limits(LimitsOfADevice(plan, server->max_frame_bytes()), &clock);  // outlives what is on its way
  options.listener.begin_flight = [&limits](const protocol::Peer& peer, uint64_t bytes) -> std::shared_ptr<void> {
    auto flight = limits.BeginFlight(DeviceId(peer.device), bytes + kFrameCost);
    return flight ? std::make_shared<DeviceLimits::Flight>(*std::move(flight)) : nullptr;
  };
  asio::io_context io;
  asio::thread_pool compute(1);  // the server's machine is of one thread
  std::function<void()> ended;
  SplitPump pump(compute.get_executor(), *server, [&] {
    if (options.until_done && server->told() >= plan.devices_per_round) ended();
  });
  protocol::FrameListener listener(io, compute.get_executor(), options.listener,
                                   [&pump](const std::string& device, std::string frame, SplitPump::Reply reply) {
                                     pump.Take(device, std::move(frame), std::move(reply));
                                   });
  HEDDLE_RETURN_IF_ERROR(listener.Start());
  if (!options.port_file.empty()) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(options.port_file, std::to_string(listener.port()) + "\n"));
  }
  Log(Severity::kInfo, "the split server listens",
      {{"port", static_cast<int64_t>(listener.port())},
       {"memory_bytes", static_cast<int64_t>(server->memory().With(0, 0))},
       {"memory_bytes_per_device", static_cast<int64_t>(server->memory().session)},
       {"largest_frame_bytes", static_cast<int64_t>(server->max_frame_bytes())}});
  asio::signal_set signals(io, SIGTERM, SIGINT);
  asio::steady_timer goodbye(io);
  const auto stop = [&] {
    listener.Stop();
    pump.Stop();
    signals.cancel();
    goodbye.cancel();
  };
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (!error) stop();
  });
  // The last answer goes out before the connections are closed.
  ended = [&] {
    asio::post(io, [&] {
      goodbye.expires_after(std::chrono::seconds(1));
      goodbye.async_wait([&](const boost::system::error_code& error) {
        if (!error) stop();
      });
    });
  };
  io.run();
  compute.join();
  LogTheEnd(*server, listener.stats());
  return server->failure().empty() ? OkStatus() : Aborted(server->failure());
}

int Main(int argc, char** argv) {
  CLI::App app("The server's half of split learning");
  Options options;
  app.add_option("--plan", options.plan, "the run's file, the same as the devices'")->required();
  app.add_option("--folder", options.folder, "where the run's state and its rounds' adapters are kept")->required();
  app.add_option("--certificates", options.certificates, "folder of ca.crt, server.crt and server.key")->required();
  app.add_option("--devices", options.devices,
                 "the coordinator's database, by which revoked devices are turned away; default: coordinator.db in the "
                 "folder above --certificates, where there is one");
  app.add_option("--compute-device", options.compute_device, "cpu, or cuda for the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->default_str("cpu");
  app.add_option("--address", options.listener.address, "to listen on");
  app.add_option("--port", options.listener.port, "to listen on; 0: any free one");
  app.add_option("--port-file", options.port_file, "the port is written there");
  options.listener.max_connections_per_address = 512;
  options.listener.max_handshakes = 64;
  app.add_option("--max-connections-per-address", options.listener.max_connections_per_address,
                 "from one IPv4 address or IPv6 /64; 0: no limit");
  app.add_option("--handshake-timeout", options.handshake_timeout_s, "seconds for TLS and the upgrade together")
      ->check(CLI::PositiveNumber);
  app.add_option("--hello-timeout", options.hello_timeout_s, "seconds from there to a device's first frame")
      ->check(CLI::PositiveNumber);
  app.add_option("--silence-timeout", options.silence_timeout_s,
                 "seconds in which a device that has its answers sends a whole frame, or loses its connection")
      ->check(CLI::PositiveNumber);
  app.add_flag("--until-done", options.until_done, "end when the run is over and its devices have heard of it");
  app.set_version_flag("--version", std::string(VersionString()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  model::UseTensorMemory(model::kServerSpare);
  std::signal(SIGPIPE, SIG_IGN);
  Status status = InitLogging({});
  model::WarnOfSlowBlas();
  if (status.ok()) status = Run(std::move(options));
  if (status.ok()) return 0;
  std::cerr << "heddle-split-server: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::coordinator

int main(int argc, char** argv) {
  try {
    return heddle::coordinator::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-split-server: " << error.what() << "\n";
    return 1;
  }
}
