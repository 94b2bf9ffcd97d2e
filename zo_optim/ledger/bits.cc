#include "zo_optim/ledger/bits.h"

#include <algorithm>

#include "common/assert.h"

namespace heddle::zo {
namespace {

constexpr unsigned kMaxParameter = 40;
constexpr unsigned kEscape = 20;

Status CutOff() { return InvalidArgument("the bytes end too early"); }

uint64_t BitsOf(uint64_t number, unsigned k) {
  const uint64_t upper = number >> k;
  return upper >= kEscape ? kEscape + 64 : upper + 1 + k;
}

class BitWriter {
 public:
  explicit BitWriter(std::string* out) : out_(out) {}
  void Put(uint64_t value, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      if (used_ == 0) out_->push_back('\0');
      out_->back() = static_cast<char>(static_cast<uint8_t>(out_->back()) | (value >> i & 1U) << used_);
      used_ = (used_ + 1) % 8;
    }
  }

 private:
  std::string* out_;
  unsigned used_ = 0;  // bits of the last byte
};

class BitReader {
 public:
  explicit BitReader(ByteReader& bytes) : bytes_(bytes) {}
  Result<uint64_t> Get(unsigned count) {
    uint64_t value = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (left_ == 0) {
        HEDDLE_ASSIGN_OR_RETURN(const uint64_t byte, bytes_.Fixed(1));
        byte_ = static_cast<unsigned>(byte);
        left_ = 8;
      }
      value |= uint64_t{byte_ & 1U} << i;
      byte_ >>= 1;
      --left_;
    }
    return value;
  }
  bool RestIsZero() const { return byte_ == 0; }

 private:
  ByteReader& bytes_;
  unsigned byte_ = 0, left_ = 0;
};

}  // namespace

Result<uint64_t> ByteReader::Fixed(size_t bytes) {
  if (bytes_.size() < bytes) return CutOff();
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= uint64_t{static_cast<uint8_t>(bytes_[i])} << (8 * i);
  bytes_ = bytes_.subspan(bytes);
  return value;
}

Result<uint64_t> ByteReader::Varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t byte, Fixed(1));
    if (shift == 63 && byte > 1) break;
    value |= (byte & 127) << shift;
    if (byte < 128) {
      if (byte == 0 && shift > 0) break;
      return value;
    }
  }
  return InvalidArgument("a number is not written in its shortest form");
}

Result<std::span<const std::byte>> ByteReader::Bytes(size_t count) {
  if (bytes_.size() < count) return CutOff();
  const auto taken = bytes_.first(count);
  bytes_ = bytes_.subspan(count);
  return taken;
}

void PutFixed(uint64_t value, size_t bytes, std::string* out) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

void PutVarint(uint64_t value, std::string* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<char>(value | 128));
  out->push_back(static_cast<char>(value));
}

void PutNumbers(std::span<const uint64_t> numbers, std::string* out) {
  unsigned best = 0;
  uint64_t fewest = ~uint64_t{0};
  for (unsigned k = 0; k <= kMaxParameter; ++k) {
    uint64_t bits = 0;
    for (const uint64_t number : numbers) bits += BitsOf(number, k);
    if (bits < fewest) {
      fewest = bits;
      best = k;
    }
  }
  out->push_back(static_cast<char>(best));
  BitWriter bits(out);
  for (const uint64_t number : numbers) {
    const uint64_t upper = std::min<uint64_t>(number >> best, kEscape);
    bits.Put((uint64_t{1} << upper) - 1, static_cast<unsigned>(upper));
    if (upper == kEscape) {
      bits.Put(number, 64);
    } else {
      bits.Put(0, 1);
      bits.Put(number, best);
    }
  }
}

Result<std::vector<uint64_t>> GetNumbers(ByteReader& reader, size_t count) {
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t k, reader.Fixed(1));
  if (k > kMaxParameter) return InvalidArgument("a list of numbers has the parameter " + std::to_string(k));
  // Each takes a bit at least.
  if (count > 8 * static_cast<uint64_t>(reader.left())) return CutOff();
  std::vector<uint64_t> numbers;
  numbers.reserve(count);
  BitReader bits(reader);
  while (numbers.size() < count) {
    unsigned upper = 0;
    while (upper < kEscape) {
      HEDDLE_ASSIGN_OR_RETURN(const uint64_t one, bits.Get(1));
      if (one == 0) break;
      ++upper;
    }
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t low, bits.Get(upper == kEscape ? 64 : static_cast<unsigned>(k)));
    const uint64_t number = upper == kEscape ? low : (uint64_t{upper} << k | low);
    if (upper == kEscape && number >> k < kEscape)
      return InvalidArgument("a number is not written in its shortest form");
    numbers.push_back(number);
  }
  if (!bits.RestIsZero()) return InvalidArgument("there are bits behind a list of numbers");
  return numbers;
}

}  // namespace heddle::zo
