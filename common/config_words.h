// For config.cc: names that were nearly right, and values as TOML writes them.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace heddle {

// Variables of the environment that begin with HEDDLE_, are none of `known` and within two letters of one, with that
// one.
std::map<std::string, std::string> MistypedVariables(const std::vector<std::string>& known);

// With its quotes.
std::string TomlText(std::string_view text);
// The shortest that reads as the same number.
std::string DoubleText(double value);

}  // namespace heddle
