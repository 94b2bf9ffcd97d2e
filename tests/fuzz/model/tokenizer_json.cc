// Any bytes as tokenizer.json: refused, or a tokenizer that encodes every text, and gives it back when it says so.
#include "model/tokenizer/tokenizer_json.h"

#include "model/tokenizer/json_members.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto parts = heddle::model::ParseTokenizerJson(text);
  const auto tokenizer = heddle::model::Tokenizer::FromJson(text);
  Require(parts.ok() == tokenizer.ok(), "both readers agree");
  // The same bytes as the file next to it.
  heddle::model::TokenizerParts beside;
  (void)heddle::model::ApplyTokenizerConfig(text, &beside);
  if (!parts.ok()) return 0;
  Require((*tokenizer)->vocab_size() <= heddle::model::kMaxTokenId, "ids are bounded");
  for (std::string_view sample : {std::string_view("In the beginning God created the heaven and the earth."),
                                  std::string_view("  it's 1234\n\n\xC3\xA9\xF0\x9F\x98\x80 <|endoftext|>  <s>x"),
                                  std::string_view("\xFF\x00\xC3 \x80 bad", 9), text.substr(0, 512)}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(sample);
    for (int32_t id : ids) Require(id >= 0 && id < (*tokenizer)->vocab_size(), "ids are in the vocabulary");
    Require((*tokenizer)->Encode(sample) == ids, "a word that was seen before has the same ids", sample);
    const std::string decoded = (*tokenizer)->Decode(ids);
    Require(!parts->keeps_bytes || decoded == sample, "decoding gives the text back", sample);
    heddle::model::EncodeOptions options;
    options.max_length = 7;
    const auto pair = (*tokenizer)->EncodePair(sample, "and a second one", options);
    if (!pair.ok()) continue;  // more special tokens than that
    Require(pair->size() <= 7, "truncated");
    for (int32_t id : pair->ids) Require(id >= 0 && id < (*tokenizer)->vocab_size(), "with ids of the vocabulary");
    Require(pair->type_ids.size() == pair->size() && pair->special_mask.size() == pair->size(), "and all that belongs");
  }
  return 0;
}
