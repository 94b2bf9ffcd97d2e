#include "model/tokenizer/bpe.h"

#include <functional>
#include <limits>
#include <queue>

namespace heddle::model {
namespace {

constexpr size_t kShortWord = 32;

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeMerges::Add(int32_t left, int32_t right, int32_t merged) {
  merges_.try_emplace(Key(left, right), Merge{static_cast<int32_t>(merges_.size()), merged});
}

const BpeMerges::Merge* BpeMerges::Find(int32_t left, int32_t right) const {
  const auto found = merges_.find(Key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeMerges::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.size() <= kShortWord) {
    EncodeShort(word, ids);
  } else {
    EncodeLong(word, ids);
  }
}

void BpeMerges::EncodeShort(std::string_view word, std::vector<int32_t>* ids) const {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  std::array<int32_t, kShortWord> symbols;
  std::array<const Merge*, kShortWord> merge_with_next{};
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i + 1 < count; ++i) merge_with_next[i] = Find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    int32_t best_rank = kNone;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (merge_with_next[i] != nullptr && merge_with_next[i]->rank < best_rank) {
        best_rank = merge_with_next[i]->rank;
        best = i;
      }
    }
    if (best_rank == kNone) break;
    symbols[best] = merge_with_next[best]->merged;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      merge_with_next[i] = merge_with_next[i + 1];
    }
    if (best > 0) merge_with_next[best - 1] = Find(symbols[best - 1], symbols[best]);
    merge_with_next[best] = best + 1 < count ? Find(symbols[best], symbols[best + 1]) : nullptr;
  }
  ids->insert(ids->end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count));
}

void BpeMerges::EncodeLong(std::string_view word, std::vector<int32_t>* ids) const {
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
  for (int64_t i = 0; i < size; ++i) {
    symbols[i] = {byte_ids_[static_cast<uint8_t>(word[i])], i - 1, i + 1 < size ? i + 1 : -1};
  }
  const auto consider = [&](int64_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t a = symbols[left].id, b = symbols[symbols[left].next].id;
    if (const Merge* merge = Find(a, b); merge != nullptr) queue.push({merge->rank, left, a, b, merge->merged});
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
