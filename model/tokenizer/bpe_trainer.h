// Learns a byte-level BPE vocabulary from text. Deterministic: the same documents in any order give the same file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"

namespace heddle::model {

struct BpeTrainerOptions {
  int64_t vocab_size = 2048;                // special tokens, 256 bytes and merges
  int64_t min_frequency = 2;                // pairs seen less often are not merged
  std::vector<std::string> special_tokens;  // get the first ids, in this order
};

// Collects words, then learns. Not thread-safe.
class BpeTrainer {
 public:
  void Add(std::string_view document);
  // tokenizer.json of Hugging Face tokenizers. The vocabulary is smaller than asked for when the text has too few
  // pairs. Errors: kInvalidArgument when vocab_size has no room for the bytes and the special tokens, or is above 2^20.
  Result<std::string> Train(const BpeTrainerOptions& options) const;

 private:
  std::unordered_map<std::string, int64_t> words_;  // word -> occurrences
};

}  // namespace heddle::model
