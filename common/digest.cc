#include "common/digest.h"

#include <openssl/evp.h>

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>

#include "common/assert.h"
#include "common/file.h"

namespace heddle {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Result<Sha256Digest> Sha256Digest::FromHex(std::string_view hex) {
  if (hex.size() != 2 * kSize) {
    return InvalidArgument("a SHA-256 is 64 hex digits, not " + std::to_string(hex.size()) + " characters");
  }
  std::array<uint8_t, kSize> bytes{};
  for (size_t i = 0; i < kSize; ++i) {
    int high = HexValue(hex[2 * i]);
    int low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) return InvalidArgument("a SHA-256 is 64 hex digits; there is another character in it");
    bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return Sha256Digest(bytes);
}

Result<Sha256Digest> Sha256Digest::FromBytes(std::string_view raw) {
  if (raw.size() != kSize) return InvalidArgument("a SHA-256 is 32 bytes, not " + std::to_string(raw.size()));
  std::array<uint8_t, kSize> bytes{};
  std::copy(raw.begin(), raw.end(), reinterpret_cast<char*>(bytes.data()));
  return Sha256Digest(bytes);
}

std::string Sha256Digest::ToHex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex(2 * kSize, '0');
  for (size_t i = 0; i < kSize; ++i) {
    hex[2 * i] = kDigits[bytes_[i] >> 4];
    hex[2 * i + 1] = kDigits[bytes_[i] & 15];
  }
  return hex;
}

struct Sha256Hasher::Context {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(ctx); }
  void Start() {
    // Fetched once: EVP_sha256() is looked up anew by each Init.
    static EVP_MD* const method = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    HEDDLE_ASSERT(ctx != nullptr && EVP_DigestInit_ex(ctx, method, nullptr) == 1, "OpenSSL without SHA-256");
  }
};

Sha256Hasher::Sha256Hasher() : context_(std::make_unique<Context>()) { context_->Start(); }
Sha256Hasher::~Sha256Hasher() = default;
Sha256Hasher::Sha256Hasher(Sha256Hasher&&) noexcept = default;
Sha256Hasher& Sha256Hasher::operator=(Sha256Hasher&&) noexcept = default;

void Sha256Hasher::Update(std::span<const std::byte> data) {
  HEDDLE_ASSERT(EVP_DigestUpdate(context_->ctx, data.data(), data.size()) == 1, "SHA-256 update failed");
}

Sha256Digest Sha256Hasher::Finish() {
  std::array<uint8_t, Sha256Digest::kSize> bytes{};
  unsigned size = 0;
  HEDDLE_ASSERT(EVP_DigestFinal_ex(context_->ctx, bytes.data(), &size) == 1 && size == bytes.size(), "SHA-256 failed");
  context_->Start();
  return Sha256Digest(bytes);
}

Sha256Digest Sha256(std::span<const std::byte> data) {
  thread_local Sha256Hasher hasher;  // Finish leaves it as it began; most of what is hashed is short
  hasher.Update(data);
  return hasher.Finish();
}

Sha256Digest Sha256(std::string_view data) { return Sha256(std::as_bytes(std::span(data))); }

Result<Sha256Digest> Sha256File(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open " + path.string());
  Sha256Hasher hasher;
  constexpr size_t kPiece = size_t{1} << 18;
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPiece);  // most files are far smaller
  while (true) {
    ssize_t n = ::read(fd.get(), buffer.get(), kPiece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read " + path.string());
    if (n == 0) return hasher.Finish();
    hasher.Update(std::span(buffer.get(), static_cast<size_t>(n)));
  }
}

}  // namespace heddle
