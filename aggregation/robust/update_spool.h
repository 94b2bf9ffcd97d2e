// Updates on disk, to be read again column by column: for rules that must see all updates of a round at once (a median)
// and may not hold them all in memory. The file has no name, so it goes with the process; after a restart the updates
// are folded again as those of any method are.
//
// Layout: one row of float32 for each update, its tensors in the order of their names. Not thread-safe, but Read may
// run beside Read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "common/file.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::aggregation {

class UpdateSpool {
 public:
  // For updates of this spec (F32). `folder` as in OpenNamelessFile. Errors: its own.
  static Result<UpdateSpool> Make(const std::filesystem::path& folder, const StateDictSpec& spec);

  size_t rows() const { return rows_; }
  size_t columns() const { return columns_; }

  // One more row. The update has the spec (asserted). Errors: those of ErrnoStatus for a write (kResourceExhausted: the
  // disk is full); the spool is then as it was.
  Status Append(const StateDict& update);

  // out[k * count + j] = column begin + j of row rows[k]. All are there (asserted). Errors: kDataLoss and the others of
  // ErrnoStatus for a read.
  Status Read(std::span<const size_t> rows, size_t begin, size_t count, std::span<float> out) const;

 private:
  UpdateSpool(UniqueFd file, size_t columns) : file_(std::move(file)), columns_(columns) {}
  UniqueFd file_;
  size_t columns_;
  size_t rows_ = 0;
};

}  // namespace heddle::aggregation
