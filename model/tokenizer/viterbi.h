// The segmentation of a text into tokens with the largest sum of log-probabilities: the Unigram model (Kudo,
// 1804.10959). Immutable after building; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/tokenizer/token_trie.h"

namespace heddle::model {

class UnigramLattice {
 public:
  // `scores` by the trie's values. A character that no token covers counts as one of the lowest score less 10.
  UnigramLattice(TokenTrie trie, std::vector<double> scores);

  struct Piece {
    std::string_view text;
    int32_t value = -1;  // -1: one character that no token covers
  };
  // O(length times the longest token). Of segmentations with equal sums the one whose last token begins first.
  std::vector<Piece> Best(std::string_view text) const;

 private:
  TokenTrie trie_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
};

}  // namespace heddle::model
