// Requests that no honest device makes: other devices' assignments and uploads, closed rounds, old reports, garbage,
// certificates that have been replaced. Each must be answered with one of the statuses that fit it, or with a storage
// error while the disk is in trouble. What a verdict may say, the checker knows.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/simulation/system/machine.h"

namespace heddle::system_simulation {

class Rogue {
 public:
  Rogue(Timeline& time, Network& network, SystemChecker& checker, std::vector<std::unique_ptr<Machine>>& machines)
      : time_(time), network_(network), checker_(checker), machines_(machines) {}

  // Sends one of them, in the name of some device.
  void Act();

 private:
  struct Attempt {
    Request request;
    std::set<unsigned> expected;
  };
  Attempt Garbage();
  Attempt WrongPlace();
  Attempt RepeatedReport(const Machine& machine);
  Attempt ReportOnAnother(const Machine& machine);
  Attempt UploadForAnother(const Machine& machine);
  Attempt LongUpload(const Machine& machine);
  Attempt UnknownThings();

  Timeline& time_;
  Network& network_;
  SystemChecker& checker_;
  std::vector<std::unique_ptr<Machine>>& machines_;
};

}  // namespace heddle::system_simulation
