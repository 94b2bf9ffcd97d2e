// Whole numbers in as few bits as their sizes need: a Golomb-Rice code (Rice, 1979) with one parameter for a list.
// Internal to the ledger's packed forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::zo {

// Reads little-endian numbers and bytes off the front; every read is checked.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<uint64_t> Fixed(size_t bytes);  // at most 8
  Result<uint64_t> Varint();             // 7 bits a byte, low bits first; the shortest form only
  Result<std::span<const std::byte>> Bytes(size_t count);
  bool AtEnd() const { return bytes_.empty(); }
  size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

void PutFixed(uint64_t value, size_t bytes, std::string* out);
void PutVarint(uint64_t value, std::string* out);

// The numbers of a list: one byte with the parameter k (0 .. 40) that makes it shortest (of equal ones the smallest),
// then of each number v its upper part v >> k as so many ones and a zero, or, from 20 on, as 20 ones and the number in
// 64 bits; else its k low bits follow, low ones first. Bits fill bytes from the lowest; the last byte ends with zeros.
void PutNumbers(std::span<const uint64_t> numbers, std::string* out);
// Exactly `count` of them. Errors: kInvalidArgument.
Result<std::vector<uint64_t>> GetNumbers(ByteReader& reader, size_t count);

// Whole numbers with a sign as such without: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
inline uint64_t ZigZag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}
inline int64_t UnZigZag(uint64_t value) { return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1); }

}  // namespace heddle::zo
