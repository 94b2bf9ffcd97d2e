// The committed models of tests/data with what independent code computed of them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace heddle::model {

// Decoders in "models" (make_reference.py there), encoders and vision in "encoders" (make_encoders.py).
inline std::filesystem::path CaseRoot(const std::string& kind) {
  return std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests" / "data" / kind;
}

// Names of all folders with a config.json, in order, without "curve", which training_curve_test.cc reads.
inline std::vector<std::string> CaseNames(const std::string& kind) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(CaseRoot(kind))) {
    const std::string name = entry.path().filename();
    if (std::filesystem::exists(entry.path() / "config.json") && name != "curve") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Of a test with one of these as its parameter.
inline std::string CaseTestName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace heddle::model
