// IDX files of unsigned bytes (the format of MNIST): a big-endian header, then the values; perhaps compressed with
// gzip. Thread-safety: immutable after Open; ReadItem from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/file.h"
#include "common/status.h"

namespace heddle::model {

class IdxFile {
 public:
  static constexpr uint64_t kMaxUnpackedBytes = uint64_t{1} << 30;

  // Whether these extents, the first of which is the number of items, are what the caller is looking for.
  using ShapeCheck = std::function<Status(std::span<const int64_t> shape)>;

  // By its first bytes, a gzip file is unpacked into a file without a name beside the system's temporary files: once
  // the header has passed `check`, no more than it announces, and kMaxUnpackedBytes at most. Errors: kNotFound,
  // kPermissionDenied; those of `check`; kInvalidArgument: no IDX file of unsigned bytes, another number of dimensions
  // than `dimensions`, shorter or longer than its header says, gzip data that are damaged or announce too much;
  // kResourceExhausted: no room to unpack. Each names the file.
  static Result<std::shared_ptr<const IdxFile>> Open(const std::filesystem::path& path, size_t dimensions,
                                                     const ShapeCheck& check = nullptr);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t size() const { return shape_[0]; }         // items
  size_t item_bytes() const { return item_bytes_; }  // of one item: the product of the other dimensions

  // Fills `out` (item_bytes() long). Errors: kDataLoss.
  Status ReadItem(int64_t index, std::span<uint8_t> out) const;

 private:
  IdxFile(std::filesystem::path path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Status ReadHeader(std::span<const uint8_t> head, size_t dimensions);
  Status CheckDataBytes(uint64_t found) const;

  std::filesystem::path path_;
  UniqueFd fd_;
  std::vector<int64_t> shape_;
  size_t item_bytes_ = 1;
  uint64_t data_offset_ = 0;
};

}  // namespace heddle::model
