// Other programs that measure and print JSON.
#pragma once

#include <boost/json/value.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::bench {

// Runs the program and parses what it prints. Errors: those of starting it; kInternal with what it said on stderr,
// which goes to `log`, when it fails or prints no JSON array.
Result<boost::json::value> RunForJson(const std::vector<std::string>& argv, const std::filesystem::path& log);

// The number under "value" of the row with this id. Errors: kInternal when there is none.
Result<double> ValueOf(const boost::json::value& rows, std::string_view id);

}  // namespace heddle::bench
