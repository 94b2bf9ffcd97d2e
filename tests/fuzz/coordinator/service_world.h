// A whole coordinator without sockets and threads for fuzz targets: the real APIs, driver, store and blobs over a
// folder in memory, a fixed clock that the test moves, and requests made of bytes. Each World of a method begins from
// the same state, so that an input does the same in every process:
//
//   a run of three rounds that two reports close is selecting; devices phone-1 and phone-2 are enrolled, phone-3 is
//   revoked, and the token "token" enrols phone-4.
//
// Life cycle: construct, one at a time; Ask any number of requests; End, after which every request has had its answer.
// Thread-safety: none.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "coordinator/service/admin_api.h"
#include "coordinator/service/device_api.h"
#include "coordinator/service/device_directory.h"
#include "coordinator/service/metrics.h"
#include "coordinator/service/run_driver.h"
#include "coordinator/store/blob_store.h"
#include "coordinator/store/store.h"
#include "protocol/transport/http_head.h"
#include "tests/support/local_exchange.h"

namespace heddle::fuzz {

inline constexpr const char* kAdminToken = "the-admin-token";

class TestClock final : public Clock {
 public:
  Time Now() const override { return now_; }
  void Advance(Duration time) { now_ += time; }

 private:
  Time now_ = FromUnixMicros(1'700'000'000'000'000);
};

// One request and what came of it.
struct Asked {
  std::shared_ptr<testing::LocalExchange> exchange;
  std::string device;  // as the certificate says it; empty without one
  std::string body;
};

class World {
 public:
  enum class Listener { kDevices, kAdmin };

  // Of the run: means of adapters; scalars of shared seeds, whose models are ledgers; adapters as int8.
  enum class Method { kFedAvg, kLedger, kEncoded };

  explicit World(Method method = Method::kFedAvg);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // `head` is a request's head without its empty line; a Content-Length that fits the body is added when it has none.
  // `broken`: the connection breaks after half of the body. Nothing when the head is refused by its parser, as the
  // server would.
  std::optional<Asked> Ask(Listener listener, std::string_view head, std::string body, const std::string& device,
                           bool broken);
  void Advance(Duration time);
  // The server goes down: what still waits is answered.
  void End();

  coordinator::Store& store() { return *store_; }
  coordinator::BlobStore& blobs() { return *blobs_; }
  coordinator::RunDriver& driver() { return *driver_; }
  // Of the base model, and the recipe that a run of kFedAvg was made of.
  static const std::filesystem::path& Folder();
  static const std::string& Recipe();
  // A request for a certificate, made once a process.
  static const std::string& CsrDer();

 private:
  void Poll();

  std::unique_ptr<coordinator::Store> store_;
  coordinator::BlobStore* blobs_ = nullptr;  // of the process
  TestClock clock_;
  coordinator::CoordinatorConfig config_;
  coordinator::Metrics metrics_;
  coordinator::DeviceDirectory directory_;
  std::atomic<bool> ready_{true};
  // In the order of what holds on to what: requests in io, and answers under way in the driver, hold shares of
  // devices_.
  std::unique_ptr<coordinator::DeviceApi> devices_;
  std::unique_ptr<coordinator::AdminApi> admin_;
  boost::asio::io_context io_;
  std::unique_ptr<coordinator::RunDriver> driver_;
  std::vector<std::shared_ptr<testing::LocalExchange>> waiting_;
};

}  // namespace heddle::fuzz
