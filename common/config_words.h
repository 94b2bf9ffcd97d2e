// Names that were nearly right, for config.cc.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace heddle {

// Variables of the environment that begin with HEDDLE_, are none of `known` and within two letters of one, with that
// one.
std::map<std::string, std::string> MistypedVariables(const std::vector<std::string>& known);

}  // namespace heddle
