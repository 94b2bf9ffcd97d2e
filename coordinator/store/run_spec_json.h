// The RunSpec as JSON text for its row: a run goes on after a restart with the settings it was started with, whatever
// has become of the recipe file.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"
#include "coordinator/engine/types.h"

namespace heddle::coordinator {

std::string RunSpecToJson(const RunSpec& spec);
// Every field must be there with its type; unknown ones are ignored. Those of a second stage stand only with a run that
// has one: rows of before there were any have none. Errors: kDataLoss.
Result<RunSpec> RunSpecFromJson(std::string_view json);

}  // namespace heddle::coordinator
