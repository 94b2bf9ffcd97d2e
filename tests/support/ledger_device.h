// A device of a run with shared seeds that computes no losses: the daemon's own link and cache, the replay of each
// round's ledger, and scalars that are made up. For counting what such a run costs on the wire.
//
// One strand; one Round at a time.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <optional>

#include "aggregation/ledger/ledger_model.h"
#include "client/daemon/link.h"
#include "common/random.h"

namespace heddle::wire {

class LedgerDevice {
 public:
  // `folder`: of its cache. Throws std::runtime_error where the disk fails.
  LedgerDevice(boost::asio::any_io_executor executor, protocol::ClientOptions options,
               const std::filesystem::path& folder, uint64_t seed);

  // Checks in, fetches the run's start and its ledger (never the base model), rebuilds the weights and reports scalars
  // between -3 and 3 for as many directions as the plan asks for. Errors: it was not accepted; whatever else failed.
  boost::asio::awaitable<Status> Round();

  uint64_t socket_bytes() const { return link_.socket_bytes(); }

 private:
  Status Rebuild(const v1::TaskPlan& plan);
  std::string MakeUpdate(const v1::TrainPlan& train);

  std::filesystem::path folder_;
  client::BlobCache cache_;
  client::CoordinatorLink link_;
  PhiloxStream random_;
  std::optional<aggregation::Weights> weights_;
  zo::Ledger ledger_;  // what they are the replay of
  Sha256Digest proof_;
};

}  // namespace heddle::wire
