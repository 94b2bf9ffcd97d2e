// Other programs that measure and print JSON.
#pragma once

#include <boost/json/value.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::bench {

// Runs the program and parses what it prints. Errors: those of starting it; kInternal with what it said on stderr,
// which goes to `log`, when it fails or prints no JSON array.
Result<boost::json::value> RunForJson(const std::vector<std::string>& argv, const std::filesystem::path& log);

}  // namespace heddle::bench
