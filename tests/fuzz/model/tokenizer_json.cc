// Any bytes as tokenizer.json: refused, or a tokenizer that gives every text back.
#include "model/tokenizer/tokenizer_json.h"

#include <algorithm>

#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

namespace {

bool SwallowsSpace(const heddle::model::TokenizerParts& parts) {
  for (const auto* added : {&parts.unnormalized, &parts.normalized}) {
    for (const auto& token : added->tokens()) {
      if (token.lstrip || token.rstrip) return true;
    }
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto parts = heddle::model::ParseTokenizerJson(text);
  const auto tokenizer = heddle::model::Tokenizer::FromJson(text);
  Require(parts.ok() == tokenizer.ok(), "both readers agree");
  // The same bytes as the file next to it.
  heddle::model::TokenizerParts beside;
  (void)heddle::model::ApplyTokenizerConfig(text, &beside);
  if (!parts.ok()) return 0;
  const auto known = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < parts->bytes_of.size(); };
  for (int b = 0; b < 256; ++b) {
    Require(known(parts->byte_ids[b]), "every byte has a token");
    Require(parts->bytes_of[parts->byte_ids[b]] == std::string(1, static_cast<char>(b)), "which stands for it");
  }
  for (const auto& [left, right, merged] : parts->merges) {
    Require(known(left) && known(right) && known(merged), "merges are of tokens that exist");
    Require(parts->bytes_of[left] + parts->bytes_of[right] == parts->bytes_of[merged], "a merge keeps the bytes");
  }
  for (std::string_view sample : {std::string_view("In the beginning God created the heaven and the earth."),
                                  std::string_view("  it's 1234\n\n\xC3\xA9\xF0\x9F\x98\x80 <|endoftext|>  <s>x"),
                                  std::string_view("\xFF\x00\xC3 \x80 bad", 9), text.substr(0, 512)}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(sample);
    for (int32_t id : ids) Require(id >= 0 && id < (*tokenizer)->vocab_size(), "ids are in the vocabulary");
    if (SwallowsSpace(*parts) || parts->add_prefix_space) continue;
    Require((*tokenizer)->Decode(ids) == sample, "decoding gives the text back", sample);
  }
  return 0;
}
