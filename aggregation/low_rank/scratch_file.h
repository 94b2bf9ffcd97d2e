// A nameless file for what need not stay in memory: pieces are appended, and read again in any order or mapped. Its
// room is free again when the object and every mapping of it are gone, also after a crash.
//
// Thread-safety: Append from one thread at a time; Read beside anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "common/file.h"
#include "common/status.h"

namespace heddle::aggregation::low_rank {

class ScratchFile {
 public:
  // In `folder`; empty: the system's for temporary files. Errors: those of OpenNamelessFile.
  static Result<ScratchFile> Make(const std::filesystem::path& folder);

  uint64_t size() const { return size_; }

  // At the end; returns where it begins. Errors: those of ErrnoStatus (kResourceExhausted: the disk is full); the file
  // then counts as unchanged.
  Result<uint64_t> Append(std::span<const std::byte> bytes);

  // Fills `bytes` from `offset` on. Errors: kDataLoss when the file is shorter, those of ErrnoStatus.
  Status Read(uint64_t offset, std::span<std::byte> bytes) const;

  struct Mapping {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;  // keeps them there
  };
  // All that was appended, to be read in place. Errors: those of ErrnoStatus.
  Result<Mapping> Map() const;

 private:
  explicit ScratchFile(UniqueFd file) : file_(std::move(file)) {}
  UniqueFd file_;
  uint64_t size_ = 0;
};

}  // namespace heddle::aggregation::low_rank
