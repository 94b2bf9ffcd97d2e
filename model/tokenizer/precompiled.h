// SentencePiece's "precompiled_charsmap": replacements of short texts, in a double-array trie. It comes from files, so
// every step is checked against the ends of its arrays. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/normalizer.h"

namespace heddle::model {

class CharsMap {
 public:
  // The bytes as they stand in a SentencePiece model: the size of the trie, the trie, texts that end with a zero byte.
  // Errors: kInvalidArgument.
  static Result<CharsMap> FromBytes(std::string_view bytes);
  static Result<CharsMap> FromBase64(std::string_view text);

  // What the longest, or the shortest, beginning of `text` that the map knows is replaced by.
  struct Match {
    size_t length = 0;  // of the text; 0: none
    std::string_view with;
  };
  Match Longest(std::string_view text) const { return Find(text, true); }
  Match Shortest(std::string_view text) const { return Find(text, false); }

 private:
  Match Find(std::string_view text, bool longest) const;
  std::vector<uint32_t> trie_;
  std::string texts_;
};

// The normalizer of tokenizer.json: a grapheme of less than 6 bytes, else each of its characters, by the shortest
// match.
class PrecompiledNormalizer : public Normalizer {
 public:
  explicit PrecompiledNormalizer(CharsMap map) : map_(std::move(map)) {}
  void Apply(std::string* text) const override { ApplyWithin(SIZE_MAX, text); }
  void ApplyWithin(size_t most, std::string* text) const override;

 private:
  CharsMap map_;
};

}  // namespace heddle::model
