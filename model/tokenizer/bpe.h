// Byte-pair encoding of one word (Sennrich et al., 1508.07909): the pair of neighbours with the lowest rank is merged,
// the leftmost first, until no pair has a rank. Immutable after building; thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace heddle::model {

class BpeMerges {
 public:
  // The id of each byte's own token.
  explicit BpeMerges(const std::array<int32_t, 256>& byte_ids) : byte_ids_(byte_ids) {}
  // Merges are added in order of rank; the first of two equal pairs counts.
  void Add(int32_t left, int32_t right, int32_t merged);
  // Appends the word's ids. O(n log n), or O(n^2) for words of a few bytes, where that is faster.
  void Encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank, merged;
  };
  const Merge* Find(int32_t left, int32_t right) const;
  void EncodeShort(std::string_view word, std::vector<int32_t>* ids) const;
  void EncodeLong(std::string_view word, std::vector<int32_t>* ids) const;

  std::array<int32_t, 256> byte_ids_;
  std::unordered_map<uint64_t, Merge> merges_;
};

}  // namespace heddle::model
