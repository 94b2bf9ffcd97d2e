// The ids of words that were seen before: most of a language's text is a few thousand words. A table of a fixed number
// of places without locks; a word that comes to a taken place replaces what is there. Long words are not kept.
//
// Thread-safe. A place is 64 bytes under a version: odd while one thread writes, and a reader that saw the version
// change takes the word for unknown. All words are atomic, so there is no race, and on common machines reading them
// costs nothing more.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace heddle::model {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 23, kMaxIds = 8;
  // 2^bits places of 64 bytes.
  explicit WordCache(int bits = 15);

  // A word in the form of the table.
  struct Key {
    std::array<uint64_t, 3> words;
    uint64_t hash;
  };
  // False for a word that is too long, or empty.
  static bool MakeKey(std::string_view word, Key* key);
  // Appends the ids of the word; false when it is not known.
  bool Find(const Key& key, std::vector<int32_t>* ids) const;
  // Remembers the last `count` of `ids`, unless they are too many.
  void Put(const Key& key, const std::vector<int32_t>& ids, size_t count) const;

 private:
  struct alignas(64) Place {
    // Version and number of ids (version * 16 + count); the key, its last byte the length; the ids, two in a word.
    std::array<std::atomic<uint64_t>, 8> words{};
  };
  uint64_t mask_;
  std::unique_ptr<Place[]> places_;
};

}  // namespace heddle::model
