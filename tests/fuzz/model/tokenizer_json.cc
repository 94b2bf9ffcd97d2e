// Any bytes as tokenizer.json: refused, or a tokenizer that encodes every text, and gives it back when it says so.
#include "model/tokenizer/tokenizer_json.h"

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/model/tokenizer_samples.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto parts = heddle::model::ParseTokenizerJson(text);
  const auto tokenizer = heddle::model::Tokenizer::FromJson(text);
  Require(parts.ok() == tokenizer.ok(), "both readers agree");
  // The same bytes as the file next to it.
  heddle::model::TokenizerParts beside;
  (void)heddle::model::ApplyTokenizerConfig(text, &beside);
  (void)heddle::model::ParseTokenizerJson(text, text);
  if (!parts.ok()) return 0;
  Require((*tokenizer)->vocab_size() <= heddle::model::kMaxTokenId, "ids are bounded");
  heddle::fuzz::TryTokenizer(**tokenizer, text, parts->keeps_bytes);
  return 0;
}
