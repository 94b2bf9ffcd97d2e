// May this device train now? The device's owner says so: by a command's exit status, by a file that is there, or not at
// all (then always).
//
// On one executor. Cancelling the coroutine kills a command that runs.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <functional>
#include <string>

#include "common/clock.h"

namespace heddle::client {

struct EligibilityOptions {
  std::string command;               // run by /bin/sh -c; exit status 0: may train
  std::filesystem::path file;        // exists: may train. Both given: both must agree
  Duration interval = Seconds(10);   // between checks
  Duration time_limit = Seconds(5);  // of the command; beyond it, it is killed and the device may not train
};

struct Eligible {
  bool eligible = true;
  std::string reason;  // why not, a sentence
};

// One check.
boost::asio::awaitable<Eligible> CheckEligibility(EligibilityOptions options);

// Checks at once and then every interval, for ever; tells what each found. Without command and file it tells once.
boost::asio::awaitable<void> WatchEligibility(EligibilityOptions options, std::function<void(const Eligible&)> tell);

}  // namespace heddle::client
