#include "coordinator/audit/audit_head.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "common/file.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNameDigits = 12;
constexpr std::string_view kPrefix = "audit-";
constexpr std::string_view kSuffix = ".jsonl";

// Takes `literal`, then a number, off the front.
bool TakeNumber(std::string_view* text, std::string_view literal, uint64_t* number) {
  if (!text->starts_with(literal)) return false;
  text->remove_prefix(literal.size());
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *number);
  if (error != std::errc()) return false;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return true;
}

std::optional<AuditHead> ParseSlot(std::string_view slot) {
  AuditHead head;
  std::string_view rest = slot;
  if (!TakeNumber(&rest, "{\"write\":", &head.write) || !TakeNumber(&rest, ",\"seq\":", &head.sequence)) return {};
  constexpr std::string_view kHash = ",\"hash\":\"";
  if (!rest.starts_with(kHash) || rest.size() < kHash.size() + 64) return {};
  const auto hash = Sha256Digest::FromHex(rest.substr(kHash.size(), 64));
  if (!hash.ok()) return {};
  head.hash = *hash;
  if (FormatSlot(head) != slot) return {};
  return head;
}

}  // namespace

fs::path AuditHeadPath(const fs::path& folder) { return folder / "head"; }

std::string FormatSlot(const AuditHead& head) {
  std::string slot = "{\"write\":" + std::to_string(head.write) + ",\"seq\":" + std::to_string(head.sequence) +
                     ",\"hash\":\"" + head.hash.ToHex() + "\"";
  const Sha256Digest check = Sha256(slot);
  slot += ",\"check\":\"" + check.ToHex() + "\"}";
  slot.resize(kSlotBytes - 1, ' ');
  return slot + "\n";
}

std::optional<AuditHead> ParseHead(std::string_view content) {
  std::optional<AuditHead> newest;
  for (size_t at = 0; at + kSlotBytes <= content.size() && at < 2 * kSlotBytes; at += kSlotBytes) {
    const auto head = ParseSlot(content.substr(at, kSlotBytes));
    if (head && (!newest || head->write > newest->write)) newest = head;
  }
  return newest;
}

Result<std::optional<AuditHead>> ReadHead(const fs::path& folder) {
  auto content = ReadFile(AuditHeadPath(folder), 4096);
  if (content.ok()) return ParseHead(*content);
  const Code code = content.status().code();
  if (code == Code::kNotFound || code == Code::kResourceExhausted) return std::optional<AuditHead>();
  return content.status();
}

fs::path AuditFilePath(const fs::path& folder, uint64_t first_sequence) {
  std::string digits = std::to_string(first_sequence);
  if (digits.size() < kNameDigits) digits.insert(0, kNameDigits - digits.size(), '0');
  return folder / (std::string(kPrefix) + digits + std::string(kSuffix));
}

Result<std::vector<fs::path>> ListAuditFiles(const fs::path& folder) {
  std::vector<std::pair<uint64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    uint64_t number = 0;
    std::string_view rest = name;
    if (TakeNumber(&rest, kPrefix, &number) && rest == kSuffix) found.emplace_back(number, it->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return ErrnoStatus(error.value(), "cannot read the folder " + folder.string());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [number, path] : found) paths.push_back(std::move(path));
  return paths;
}

}  // namespace heddle::coordinator
