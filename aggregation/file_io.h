// Whole reads and writes at a place of a file, for what a round keeps on disk. Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/status.h"

namespace heddle::aggregation {

// All of `bytes` to `offset`. Errors: those of ErrnoStatus (kResourceExhausted: the disk is full); `file` names the
// file in the message.
Status WriteAt(int fd, std::span<const std::byte> bytes, uint64_t offset, std::string_view file);

// Fills `bytes` from `offset` on. Errors: kDataLoss when the file is shorter, those of ErrnoStatus.
Status ReadAt(int fd, std::span<std::byte> bytes, uint64_t offset, std::string_view file);

}  // namespace heddle::aggregation
