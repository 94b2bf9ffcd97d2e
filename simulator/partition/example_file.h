// A new file of examples, in a form that every device's local task reads: JSONL, or pictures as an IDX pair
// (model/data/image_records.h).
//
// Life cycle: make one; Add; Finish, without which it is no whole file. Not thread-safe. Errors: those of files, and
// kInvalidArgument where an example has another size than the pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "common/status.h"

namespace heddle::simulator {

class ExampleFile {
 public:
  virtual ~ExampleFile() = default;
  // What a local task is told; of a pair the pictures' file.
  virtual const std::filesystem::path& path() const = 0;
  virtual Status Add(std::string_view example) = 0;
  virtual Status Finish() = 0;
};

// <stem>.jsonl; an example is a line without its break.
Result<std::unique_ptr<ExampleFile>> NewLineFile(const std::filesystem::path& stem);
// <stem>-images-idx3-ubyte and <stem>-labels-idx1-ubyte; an example is its pixels, row by row, and a byte for its
// class.
Result<std::unique_ptr<ExampleFile>> NewPictureFile(const std::filesystem::path& stem, int64_t height, int64_t width);

}  // namespace heddle::simulator
