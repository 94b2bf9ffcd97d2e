// The command line's side of the loopback API: one blocking call after the other.
// Thread-safety: none. Life cycle: made from the coordinator's configuration; finds port and token by itself.
#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <string>

#include "common/status.h"
#include "coordinator/service/config.h"

namespace heddle::coordinator {

class AdminClient {
 public:
  // Errors: kUnavailable when the port is not known (no coordinator runs).
  static Result<std::unique_ptr<AdminClient>> Make(const CoordinatorConfig& config);
  ~AdminClient();

  // The answer's JSON object. Errors: kUnavailable (no coordinator answers); what the coordinator answered, with its
  // code and sentence.
  Result<boost::json::object> Get(const std::string& target);
  Result<boost::json::object> Post(const std::string& target, const std::string& body);
  // An answer that is not JSON.
  Result<std::string> GetText(const std::string& target);

 private:
  struct Impl;
  explicit AdminClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle::coordinator
