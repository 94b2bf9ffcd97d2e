// The promises of docs/threat-model.md: each row of a table "| promise | test |" names at least one test, and every
// test that it names is in the sources.
#pragma once

#include <set>
#include <string>

#include "tests/tidy/source_rules.h"

namespace heddle::tidy {

// "Suite.Name" of every GoogleTest and RapidCheck property, and the names of the fuzz targets.
std::set<std::string> TestNames(const Tree& tree);

Violations CheckPromises(const Tree& tree);

}  // namespace heddle::tidy
