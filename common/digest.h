// SHA-256, the name of every blob. Computed by OpenSSL (which uses the processor's SHA instructions).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle {

class Sha256Digest {
 public:
  static constexpr size_t kSize = 32;
  Sha256Digest() = default;  // all zero: "no digest"
  explicit Sha256Digest(const std::array<uint8_t, kSize>& bytes) : bytes_(bytes) {}

  // 64 hex digits, either case. Errors: kInvalidArgument.
  static Result<Sha256Digest> FromHex(std::string_view hex);
  // 32 raw bytes. Errors: kInvalidArgument when the length differs.
  static Result<Sha256Digest> FromBytes(std::string_view raw);

  std::string ToHex() const;  // 64 lower-case digits
  const std::array<uint8_t, kSize>& bytes() const { return bytes_; }
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes_.data()), kSize}; }
  bool IsZero() const { return *this == Sha256Digest(); }
  friend auto operator<=>(const Sha256Digest&, const Sha256Digest&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Sha256Digest& d) { return out << d.ToHex(); }

 private:
  std::array<uint8_t, kSize> bytes_{};
};

// Incremental hash. Not thread-safe; movable. After Finish() it starts anew.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  Sha256Hasher(Sha256Hasher&&) noexcept;
  Sha256Hasher& operator=(Sha256Hasher&&) noexcept;

  void Update(std::span<const std::byte> data);
  void Update(std::string_view data) { Update(std::as_bytes(std::span(data))); }
  Sha256Digest Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

Sha256Digest Sha256(std::span<const std::byte> data);
Sha256Digest Sha256(std::string_view data);
// Hashes the file in pieces of 1 MiB. Errors: those of files (common/file.h: ErrnoStatus), with the path.
Result<Sha256Digest> Sha256File(const std::filesystem::path& path);

}  // namespace heddle

template <>
struct std::hash<heddle::Sha256Digest> {
  size_t operator()(const heddle::Sha256Digest& d) const noexcept {
    size_t h = 0;
    for (size_t i = 0; i < sizeof h; ++i) h = (h << 8) | d.bytes()[i];
    return h;
  }
};
