#include "model/tokenizer/bpe.h"

#include <array>
#include <functional>
#include <queue>

namespace heddle::model {
namespace {

size_t Hash(int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  const uint64_t mixed = (key ^ key >> 29) * 0xBF58476D1CE4E5B9U;
  return static_cast<size_t>(mixed ^ mixed >> 32);
}

}  // namespace

BpeMerges::Place& BpeMerges::Slot(int32_t left, int32_t right) {
  const size_t mask = places_.size() - 1;
  size_t at = Hash(left, right) & mask;
  while (places_[at].rank != kNoRank && (places_[at].left != left || places_[at].right != right)) at = (at + 1) & mask;
  return places_[at];
}

const BpeMerges::Place& BpeMerges::Find(int32_t left, int32_t right) const {
  const size_t mask = places_.size() - 1;
  size_t at = Hash(left, right) & mask;
  while (places_[at].rank != kNoRank && (places_[at].left != left || places_[at].right != right)) at = (at + 1) & mask;
  return places_[at];
}

void BpeMerges::Grow() {
  std::vector<Place> old(places_.size() * 2);
  old.swap(places_);
  for (const Place& place : old) {
    if (place.rank != kNoRank) Slot(place.left, place.right) = place;
  }
}

void BpeMerges::Add(int32_t left, int32_t right, int32_t merged) {
  Place& place = Slot(left, right);
  const int32_t rank = next_rank_++;
  if (place.rank != kNoRank) return;
  place = {left, right, rank, merged};
  if (++count_ * 2 > places_.size()) Grow();
}

void BpeMerges::Merge(std::span<const int32_t> symbols, std::vector<int32_t>* ids) const {
  if (symbols.size() <= kShortWord) {
    MergeShort(symbols, ids);
  } else {
    MergeLong(symbols, ids);
  }
}

void BpeMerges::MergeShort(std::span<const int32_t> word, std::vector<int32_t>* ids) const {
  std::array<int32_t, kShortWord> symbols;
  std::array<const Place*, kShortWord> with_next;
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = word[i];
  for (size_t i = 0; i + 1 < count; ++i) with_next[i] = &Find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    int32_t best_rank = kNoRank;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (with_next[i]->rank < best_rank) {
        best_rank = with_next[i]->rank;
        best = i;
      }
    }
    if (best_rank == kNoRank) break;
    symbols[best] = with_next[best]->merged;
    --count;
    for (size_t i = best + 1; i < count; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 1 < count; ++i) with_next[i] = with_next[i + 1];
    if (best > 0) with_next[best - 1] = &Find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) with_next[best] = &Find(symbols[best], symbols[best + 1]);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count));
}

void BpeMerges::MergeLong(std::span<const int32_t> word, std::vector<int32_t>* ids) const {
  struct Symbol {
    int32_t id;
    int64_t previous, next;  // -1: none
  };
  struct Candidate {
    int32_t rank;
    int64_t position;
    int32_t left, right, merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const auto size = static_cast<int64_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  for (int64_t i = 0; i < size; ++i) symbols[i] = {word[i], i - 1, i + 1 < size ? i + 1 : -1};
  const auto consider = [&](int64_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t a = symbols[left].id, b = symbols[symbols[left].next].id;
    if (const Place& merge = Find(a, b); merge.rank != kNoRank) queue.push({merge.rank, left, a, b, merge.merged});
  };
  for (int64_t i = 0; i + 1 < size; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    // Stale: one of the two has been merged since (a merged-away symbol has id -1).
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right) continue;
    Symbol& right = symbols[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  for (int64_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace heddle::model
