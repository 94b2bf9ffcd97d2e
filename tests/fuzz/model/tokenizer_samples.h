// What the fuzz targets of tokenizers do with one that was read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

namespace heddle::fuzz {

// Encodes and decodes texts of all kinds, and `own`: ids are in the vocabulary, words that were seen before have the
// same ids, and truncation keeps its promise. `keeps_bytes`: decoding gives the text back.
inline void TryTokenizer(const model::Tokenizer& tokenizer, std::string_view own, bool keeps_bytes) {
  const auto known = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) Require(id >= 0 && id < tokenizer.vocab_size(), "ids are in the vocabulary");
  };
  for (const std::string_view sample : {std::string_view("In the beginning God created the heaven and the earth."),
                                        std::string_view("  it's 1234\n\n\xC3\xA9\xF0\x9F\x98\x80 <|endoftext|>  <s>x"),
                                        std::string_view("\xFF\x00\xC3 \x80 bad", 9), own.substr(0, 512)}) {
    const std::vector<int32_t> ids = tokenizer.Encode(sample);
    known(ids);
    Require(tokenizer.Encode(sample) == ids, "a word that was seen before has the same ids", sample);
    const std::string decoded = tokenizer.Decode(ids);
    Require(!keeps_bytes || decoded == sample, "decoding gives the text back", sample);
    model::EncodeOptions options;
    options.max_length = 7;
    const auto pair = tokenizer.EncodePair(sample, "and a second one", options);
    if (!pair.ok()) continue;  // more special tokens than that
    Require(pair->size() <= 7, "truncated");
    known(pair->ids);
    Require(pair->type_ids.size() == pair->size() && pair->special_mask.size() == pair->size(), "and all that belongs");
  }
}

}  // namespace heddle::fuzz
