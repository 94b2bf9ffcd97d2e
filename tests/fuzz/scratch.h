// A folder of this process for fuzz targets whose code under test reads files: in memory where the system has
// /dev/shm, removed when the process ends in good order. And quiet logs: a refusal a microsecond would drown the
// finding.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "common/logging.h"
#include "tests/fuzz/fuzz_input.h"

namespace heddle::fuzz {

class Scratch {
 public:
  Scratch() {
    std::error_code ignored;
    const bool shm = ::access("/dev/shm", W_OK) == 0;
    const std::filesystem::path root = shm ? "/dev/shm" : std::filesystem::temp_directory_path(ignored);
    std::string name = (root / "heddle-fuzz-XXXXXX").string();
    Require(::mkdtemp(name.data()) != nullptr, "the test can make a folder", name);
    path_ = name;
    LogOptions quiet;
    quiet.level = "error";
    quiet.file = "/dev/null";
    Require(InitLogging(quiet).ok(), "the logs can be switched off");
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  // Writes a file without the library under test.
  std::filesystem::path Write(std::string_view name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string ReadBack(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace heddle::fuzz
