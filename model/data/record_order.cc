#include "model/data/record_order.h"

#include "common/assert.h"
#include "common/random.h"

namespace heddle::model {
namespace {

constexpr uint32_t kRounds = 6;
constexpr int kMinHalfBits = 3;  // fewer, and the permutations of a handful of records would be too much alike

}  // namespace

RecordOrder::RecordOrder(int64_t size, uint64_t seed) : size_(size), seed_(seed), half_bits_(kMinHalfBits) {
  HEDDLE_ASSERT(size >= 1 && size <= int64_t{1} << 62, "records to choose from");
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < static_cast<uint64_t>(size)) ++half_bits_;
}

int64_t RecordOrder::At(uint64_t epoch, int64_t position) const {
  HEDDLE_ASSERT(position >= 0 && position < size_, "no such position");
  const uint32_t mask = (uint32_t{1} << half_bits_) - 1;
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)};
  auto value = static_cast<uint64_t>(position);
  do {
    auto left = static_cast<uint32_t>(value >> half_bits_);
    uint32_t right = static_cast<uint32_t>(value) & mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const uint32_t mixed =
          Philox4x32({right, round, static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32)}, key)[0];
      const uint32_t next = left ^ (mixed & mask);
      left = right;
      right = next;
    }
    value = (uint64_t{left} << half_bits_) | right;
  } while (value >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(value);
}

int64_t RecordOrder::At(uint64_t index) const {
  const auto size = static_cast<uint64_t>(size_);
  return At(index / size, static_cast<int64_t>(index % size));
}

}  // namespace heddle::model
