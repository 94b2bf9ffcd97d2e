#include "coordinator/store/upload_name.h"

#include <array>
#include <charconv>
#include <limits>

namespace heddle::coordinator {
namespace {

constexpr std::string_view kSuffix = ".part";
constexpr size_t kIdDigits = 32;
constexpr uint64_t kMaxSize = uint64_t{1} << 62;  // far below what an off_t holds

bool IsLowerHex(std::string_view text, size_t digits) {
  if (text.size() != digits) return false;
  for (char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

}  // namespace

std::string UploadId(const UploadSpec& spec) {
  constexpr std::string_view kZero("\0", 1);
  std::string digest = spec.digest.ToHex();
  Sha256Hasher hasher;
  for (std::string_view part : {std::string_view("upload"), kZero, std::string_view(spec.device.value()), kZero,
                                std::string_view(spec.assignment.value()), kZero, std::string_view(digest)}) {
    hasher.Update(part);
  }
  return hasher.Finish().ToHex().substr(0, kIdDigits);
}

Status CheckUploadSpec(const UploadSpec& spec) {
  if (!IsValidDeviceName(spec.device.value())) return InvalidArgument("the upload's device name is malformed");
  if (!IsLowerHex(spec.assignment.value(), kIdDigits)) {
    return InvalidArgument("the upload's assignment id is not 32 lower-case hex digits");
  }
  if (spec.size_bytes == 0 || spec.size_bytes > kMaxSize) {
    return InvalidArgument("the upload declares " + std::to_string(spec.size_bytes) + " bytes");
  }
  if (spec.digest.IsZero()) return InvalidArgument("the upload declares no digest");
  return OkStatus();
}

std::string UploadFileName(const UploadSpec& spec) {
  return UploadId(spec) + "~" + std::to_string(spec.size_bytes) + "~" + spec.digest.ToHex() + "~" +
         spec.assignment.value() + "~" + spec.device.value() + std::string(kSuffix);
}

std::optional<UploadSpec> ParseUploadFileName(std::string_view name) {
  if (!name.ends_with(kSuffix)) return std::nullopt;
  std::string_view rest = name.substr(0, name.size() - kSuffix.size());
  std::array<std::string_view, 5> parts;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    size_t end = rest.find('~');
    if (end == std::string_view::npos) return std::nullopt;
    parts[i] = rest.substr(0, end);
    rest.remove_prefix(end + 1);
  }
  parts.back() = rest;

  UploadSpec spec;
  const char* size_end = parts[1].data() + parts[1].size();
  auto number = std::from_chars(parts[1].data(), size_end, spec.size_bytes);
  if (number.ec != std::errc() || number.ptr != size_end) return std::nullopt;
  auto digest = Sha256Digest::FromHex(parts[2]);
  if (!digest.ok()) return std::nullopt;
  spec.digest = *digest;
  spec.assignment = AssignmentId(std::string(parts[3]));
  spec.device = DeviceId(std::string(parts[4]));
  if (!CheckUploadSpec(spec).ok() || UploadFileName(spec) != name) return std::nullopt;
  return spec;
}

}  // namespace heddle::coordinator
