// For config.cc: names that were nearly right, keys of too many parts, and values as TOML writes them.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace heddle {

// Variables of the environment that begin with HEDDLE_, are none of `known` and within two letters of one, with that
// one.
std::map<std::string, std::string> MistypedVariables(const std::vector<std::string>& known);

// The first line, counted from 1, with a key of more parts than any has, those of the tables and lists around it in the
// same value included; 0: there is none. The parser makes a table of each part and goes into them by recursion, so that
// the stack would end.
size_t LineTooDeep(std::string_view toml);

// With its quotes.
std::string TomlText(std::string_view text);
// The shortest that reads as the same number.
std::string DoubleText(double value);

}  // namespace heddle
