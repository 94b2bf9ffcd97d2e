#include "client/device_secret.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "common/file.h"

namespace heddle::client {
namespace {

constexpr size_t kSecretBytes = 32;

bool IsSecret(std::string_view text) {
  return text.size() == 2 * kSecretBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

Result<std::string> DeviceSecret(const std::filesystem::path& file) {
  Result<std::string> there = ReadFile(file, size_t{1} << 10);
  if (there.ok() && !IsSecret(*there)) {
    return DataLoss(file.string() + " is no secret of 64 hex digits; delete it, and the device makes a new one");
  }
  if (there.ok() || there.status().code() != Code::kNotFound) return there;
  std::array<unsigned char, kSecretBytes> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus(errno, "cannot get random bytes for " + file.string());
  }
  std::string hex;
  for (const unsigned char byte : bytes) {
    hex += "0123456789abcdef"[byte >> 4U];
    hex += "0123456789abcdef"[byte & 15U];
  }
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(file, hex, 0600));
  return hex;
}

}  // namespace heddle::client
