// Any bytes as a SentencePiece model: refused with a sentence, or a tokenizer that encodes every text.
#include "model/tokenizer/sentencepiece.h"

#include <numeric>

#include "tests/fuzz/model/tokenizer_samples.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = heddle::model::ReadSentencePiece(bytes, {});
  if (!tokenizer.ok()) {
    Require(tokenizer.status().message().find("SentencePiece") != std::string::npos ||
                tokenizer.status().message().find("charsmap") != std::string::npos,
            "a refusal says of what");
    return 0;
  }
  heddle::fuzz::TryTokenizer(**tokenizer, bytes, false);
  std::vector<int32_t> all(static_cast<size_t>((*tokenizer)->vocab_size()) + 2);
  std::iota(all.begin(), all.end(), -1);
  (void)(*tokenizer)->Decode(all);
  return 0;
}
