// The head of an audit log: which line was the last one written, in a small file of its own, so that a log whose end
// was cut off is seen to be too short. And the names of the files in the log's folder. Internal to the room and to its
// tests.
//
// The file holds two slots of kSlotBytes that are written in turn, each with a check sum: when the power goes in the
// middle of one, the other still holds. It is written after the line is on the disk and, but for the first time and at
// a new file, not fsynced: after a power cut it may name an earlier line, never a later one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/status.h"

namespace heddle::coordinator {

struct AuditHead {
  uint64_t write = 0;     // counts the writes of this file
  uint64_t sequence = 0;  // of the last line; 0: none yet
  Sha256Digest hash;      // of that line
};

inline constexpr size_t kSlotBytes = 256;

std::filesystem::path AuditHeadPath(const std::filesystem::path& folder);
// Where the slot of this write begins.
inline uint64_t SlotOffset(const AuditHead& head) { return head.write % 2 * kSlotBytes; }
// Exactly kSlotBytes.
std::string FormatSlot(const AuditHead& head);
// The newest good slot of the file's content; nothing when neither is good.
std::optional<AuditHead> ParseHead(std::string_view content);
// Nothing when there is no file, or no good slot in it. Errors: the disk.
Result<std::optional<AuditHead>> ReadHead(const std::filesystem::path& folder);

// "audit-000000000042.jsonl": the file whose first line is number 42 (or later, when lines were lost before it).
std::filesystem::path AuditFilePath(const std::filesystem::path& folder, uint64_t first_sequence);
// All of them, oldest first. Nothing when the folder is absent. Errors: the disk.
Result<std::vector<std::filesystem::path>> ListAuditFiles(const std::filesystem::path& folder);
// No larger file is read; the log begins a new one long before.
inline constexpr size_t kMaxAuditFileBytes = size_t{64} << 20;

}  // namespace heddle::coordinator
