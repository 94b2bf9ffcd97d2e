// What the coordinator wrote of a run's rounds.
#pragma once

#include <boost/json/object.hpp>
#include <vector>

#include "common/status.h"
#include "light_devices.h"

namespace heddle::bench {

// Waits until the run is complete: the lines of its history.jsonl, one for each round that ended, in order. Errors: the
// run ended in another way; kDeadlineExceeded: it did not end; kDataLoss: a line that is no object; those of processes
// and files.
Result<std::vector<boost::json::object>> HistoryOfTheRun(LightDevices& devices);

}  // namespace heddle::bench
