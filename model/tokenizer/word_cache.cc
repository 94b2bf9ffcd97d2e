#include "model/tokenizer/word_cache.h"

#include <cstring>

namespace heddle::model {
namespace {

constexpr uint64_t kCountMask = 15, kOdd = 16;

}  // namespace

WordCache::WordCache(int bits) : mask_((uint64_t{1} << bits) - 1), places_(std::make_unique<Place[]>(mask_ + 1)) {}

bool WordCache::MakeKey(std::string_view word, Key* key) {
  if (word.empty() || word.size() > kMaxWordBytes) return false;
  char bytes[24] = {};
  std::memcpy(bytes, word.data(), word.size());
  bytes[23] = static_cast<char>(word.size());
  std::memcpy(key->words.data(), bytes, sizeof bytes);
  uint64_t hash = 0x9E3779B97F4A7C15U;
  for (const uint64_t part : key->words) {
    hash = (hash ^ part) * 0xD6E8FEB86659FD93U;
    hash ^= hash >> 32;
  }
  key->hash = hash;
  return true;
}

bool WordCache::Find(const Key& key, std::vector<int32_t>* ids) const {
  const Place& place = places_[key.hash & mask_];
  const uint64_t version = place.words[0].load(std::memory_order_acquire);
  if (version == 0 || (version & kOdd) != 0) return false;
  for (size_t i = 0; i < 3; ++i) {
    if (place.words[i + 1].load(std::memory_order_acquire) != key.words[i]) return false;
  }
  uint64_t packed[4];
  for (size_t i = 0; i < 4; ++i) packed[i] = place.words[i + 4].load(std::memory_order_acquire);
  // A value that a writer has stored since was stored after the odd version: that would be seen here.
  if (place.words[0].load(std::memory_order_relaxed) != version) return false;
  const size_t count = version & kCountMask;
  int32_t found[kMaxIds];
  std::memcpy(found, packed, sizeof found);
  ids->insert(ids->end(), found, found + count);
  return true;
}

void WordCache::Put(const Key& key, const std::vector<int32_t>& ids, size_t count) const {
  if (count > kMaxIds) return;
  Place& place = places_[key.hash & mask_];
  uint64_t version = place.words[0].load(std::memory_order_relaxed);
  const uint64_t odd = (version & ~kCountMask) + kOdd;
  if ((version & kOdd) != 0 || !place.words[0].compare_exchange_strong(version, odd, std::memory_order_acq_rel)) return;
  uint64_t packed[4] = {};
  std::memcpy(packed, ids.data() + (ids.size() - count), count * sizeof(int32_t));
  for (size_t i = 0; i < 3; ++i) place.words[i + 1].store(key.words[i], std::memory_order_release);
  for (size_t i = 0; i < 4; ++i) place.words[i + 4].store(packed[i], std::memory_order_release);
  place.words[0].store(odd + kOdd + count, std::memory_order_release);
}

}  // namespace heddle::model
