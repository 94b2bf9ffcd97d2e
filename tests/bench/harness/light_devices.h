// A real coordinator (process, TLS, SQLite, disk) and devices that only move bytes: coroutines of this process on
// protocol::HttpClient that check in, fetch the adapter with hash (and keep it nowhere), upload an update and report
// it.
//
// Life cycle: construct; StartCoordinator; then Submit and Round as often as the run has rounds, or CheckIn and leave
// them waiting. From one thread that lives as long (the coordinator dies with it).
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench.h"
#include "common/status.h"
#include "protocol/transport/client.h"
#include "simulator/demo/fleet.h"
#include "synthetic.h"

namespace heddle::bench {

struct RoundTime {
  double trip = 0;   // seconds from the first check-in until the last upload was acknowledged
  double whole = 0;  // until the last report was answered, which the commit of the round comes before
  double cpu = 0;    // processor seconds of coordinator and devices over `whole`
};

class LightDevices {
 public:
  LightDevices(const Context& context, std::filesystem::path folder, int count);
  ~LightDevices();

  // The authority, certificates for all devices (one key), rows in the database, the daemon.
  Status StartCoordinator();
  // A run of `rounds` rounds in which every device takes part; also writes each device's update. `settings`: over the
  // recipe's.
  Status Submit(const SyntheticShape& shape, uint32_t rounds, const std::map<std::string, std::string>& settings = {});
  // One round, after new updates were made ready. Errors: whatever was not as it must be, hashes included.
  Result<RoundTime> Round();
  // Runs one coroutine a device, each on its device's strand with its client, and waits for all; the first error.
  using Work = std::function<boost::asio::awaitable<Status>(int index, protocol::HttpClient& client)>;
  Status Each(const Work& work);
  // `rounds` rounds in which every device checks in and sends its small update inside its report. Returns the seconds
  // in all, of the rounds after the first.
  Result<double> SmallRounds(uint32_t rounds);
  // Opens every device's check-in and leaves it open; returns when the coordinator holds them all.
  Status WaitInLobby();
  // Wall seconds of each committed round by the coordinator's own clock, after the last round.
  Result<std::vector<double>> RoundSeconds();
  Status Stop();

  simulator::Fleet& fleet() { return fleet_; }
  // TLS handshakes of all devices since Connect, as OpenSSL counts them. From a time at which none is under way.
  struct Handshakes {
    int64_t all = 0, resumed = 0;
  };
  Handshakes handshakes() const;
  const std::string& run_id() const { return run_id_; }
  const std::filesystem::path& recipe() const { return run_.recipe; }
  // pki of the coordinator, with a device.crt and device.key beside: for the bare streams.
  std::filesystem::path pki() const { return folder_ / "keys"; }

 private:
  struct Device;
  Status Enrol();
  Status Connect();
  Status Prepare(Device& device);
  static boost::asio::awaitable<Status> RunRound(Device& device);
  static boost::asio::awaitable<Status> RunSmallRound(Device& device);
  static boost::asio::awaitable<Status> PollForever(Device& device);
  // Runs one coroutine per device and waits for all; the first error.
  Status All(boost::asio::awaitable<Status> (*work)(Device&));

  Context context_;
  std::filesystem::path folder_;
  simulator::Fleet fleet_;
  SyntheticRun run_;
  std::string run_id_;
  int round_ = 0;
  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_;
  std::vector<std::thread> threads_;
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace heddle::bench
