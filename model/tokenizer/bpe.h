// Byte-pair encoding of one word (Sennrich et al., 1508.07909): the pair of neighbours with the lowest rank is merged,
// the leftmost first, until no pair has a rank. Immutable after building; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace heddle::model {

class BpeMerges {
 public:
  // Merges are added in order of rank; the first of two equal pairs counts. Ids must not be negative.
  void Add(int32_t left, int32_t right, int32_t merged);
  // Appends what the symbols of a word (the ids of its bytes or characters) become. O(n log n), or O(n^2) for words of
  // a few symbols, where that is faster.
  void Merge(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const;

 private:
  static constexpr size_t kShortWord = 32;
  static constexpr int32_t kNoRank = INT32_MAX;
  // A place of the table with open addressing; rank kNoRank: not a merge.
  struct Place {
    int32_t left = -1, right = -1, rank = kNoRank, merged = -1;
  };
  const Place& Find(int32_t left, int32_t right) const;
  Place& Slot(int32_t left, int32_t right);
  void Grow();
  void MergeShort(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const;
  void MergeLong(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const;

  std::vector<Place> places_ = std::vector<Place>(16);  // a power of two, at most half full
  size_t count_ = 0;
  int32_t next_rank_ = 0;
};

}  // namespace heddle::model
