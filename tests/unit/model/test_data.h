// The folder of real weights and reference outputs, which is not part of the repository.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace heddle::model {

// Empty where there is none.
inline std::filesystem::path TestDataFolder() {
  const char* given = std::getenv("HEDDLE_TEST_DATA");
  const std::filesystem::path folder = given != nullptr ? given : HEDDLE_SOURCE_DIR "/../shared/data";
  return std::filesystem::exists(folder / "README.md") ? folder : std::filesystem::path();
}

}  // namespace heddle::model

#define HEDDLE_NEEDS_TEST_DATA(name)                                      \
  if (!std::filesystem::exists(::heddle::model::TestDataFolder() / name)) \
  GTEST_SKIP() << "needs " << name << " of the test data folder: set HEDDLE_TEST_DATA"
