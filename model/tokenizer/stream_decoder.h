// Text of tokens that come one by one, as soon as it is certain: bytes of a character that is not whole yet are kept
// back, and a token's space is where the whole text would have it.
//
//   StreamDecoder decoder(*tokenizer); for (id : ids) out << decoder.Add(id); out << decoder.Finish();
//
// The pieces together are the tokenizer's Decode of all ids. One thread at a time; the tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The further text; may be empty.
  std::string Add(int32_t id);
  // What was kept back, as it is.
  std::string Finish();

 private:
  std::string Since(size_t begin, size_t end) const;

  const Tokenizer& tokenizer_;
  // Ids since a place whose text depends on nothing before it; texts up to `printed_` are out. A token's text may
  // depend on the token before it, so one that is out stays in front.
  std::vector<int32_t> ids_;
  size_t printed_ = 0;
};

}  // namespace heddle::model
