// Any bytes as the files of a tokenizer's folder before tokenizer.json: a line of tokenizer_config.json, then
// vocab.txt; or, after a line "merges", a line of vocab.json and merges.txt. Refused with a sentence, or a tokenizer
// that encodes every text. After a line "added": tokenizer_config.json, special_tokens_map.json, added_tokens.json,
// which are joined to a small vocabulary.
#include <boost/json.hpp>

#include "model/tokenizer/tokenizer_json.h"
#include "model/tokenizer/vocab_files.h"
#include "tests/fuzz/model/tokenizer_samples.h"

using heddle::fuzz::Require;

namespace {

void JoinAdded(heddle::fuzz::Input input) {
  const std::string_view file = input.TakeLine(), map = input.TakeLine();
  const auto config = heddle::model::MergedTokenizerConfig(file, map);
  if (!config.ok()) return Require(!config.status().message().empty(), "a refusal says why");
  const auto added = heddle::model::AddedTokensOf(input.rest(), *config);
  if (!added.ok()) return Require(!added.status().message().empty(), "a refusal says why");
  auto root = heddle::model::TokenizerFromVocabTxt("[UNK]\n[CLS]\n[SEP]\nthe\n##n\n", *config);
  if (!root.ok()) return;
  for (const boost::json::value& token : *added) (*root)["added_tokens"].as_array().push_back(token);
  const auto tokenizer = heddle::model::Tokenizer::FromJson(boost::json::serialize(*root));
  if (tokenizer.ok()) heddle::fuzz::TryTokenizer(**tokenizer, input.rest(), false);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  std::string_view config = input.TakeLine();
  if (config == "added") {
    JoinAdded(input);
    return 0;
  }
  const bool merges = config == "merges";
  if (merges) config = input.TakeLine();
  const std::string_view vocab = merges ? input.TakeLine() : input.rest();
  const auto root = merges ? heddle::model::TokenizerFromMerges(vocab, input.rest(), config)
                           : heddle::model::TokenizerFromVocabTxt(vocab, config);
  if (!root.ok()) {
    Require(!root.status().message().empty(), "a refusal says why");
    return 0;
  }
  const auto tokenizer = heddle::model::Tokenizer::FromJson(boost::json::serialize(*root));
  if (tokenizer.ok()) heddle::fuzz::TryTokenizer(**tokenizer, vocab, false);
  return 0;
}
