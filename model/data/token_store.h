// A long row of token ids that is written once and then read anywhere: in memory while it is short, else in a temporary
// file that has no name, so that the system may put it out of memory, and that is gone with its last user.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/file.h"
#include "common/status.h"

namespace heddle::model {

// Immutable; thread-safe.
class TokenStore {
 public:
  ~TokenStore();
  TokenStore(const TokenStore&) = delete;
  TokenStore& operator=(const TokenStore&) = delete;

  std::span<const int32_t> ids() const { return ids_; }
  bool in_memory() const { return mapping_ == nullptr; }

 private:
  friend class TokenStoreWriter;
  TokenStore() = default;
  std::vector<int32_t> memory_;
  void* mapping_ = nullptr;
  std::span<const int32_t> ids_;  // memory_ or the mapping
};

// For one thread. After an error only destruction is allowed.
class TokenStoreWriter {
 public:
  // The file comes into being, in the folder for temporary files (TMPDIR, else /tmp), with the first id beyond
  // max_in_memory (at least 1).
  explicit TokenStoreWriter(size_t max_in_memory);

  // Errors, also of Finish: those of the file: kResourceExhausted when the disk is full, kNotFound without a folder.
  Status Append(std::span<const int32_t> ids);
  int64_t size() const { return written_ + static_cast<int64_t>(buffer_.size()); }
  // Once, at the end.
  Result<std::shared_ptr<const TokenStore>> Finish();

 private:
  Status Flush();

  size_t max_in_memory_;
  std::vector<int32_t> buffer_;
  int64_t written_ = 0;  // ids in the file
  UniqueFd fd_;
};

}  // namespace heddle::model
