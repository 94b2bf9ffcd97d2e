// Any bytes as the files of a tokenizer's folder before tokenizer.json: a line of tokenizer_config.json, then
// vocab.txt; or, after a line "merges", a line of vocab.json and merges.txt. Refused with a sentence, or a tokenizer
// that encodes every text.
#include <boost/json.hpp>

#include "model/tokenizer/tokenizer_json.h"
#include "model/tokenizer/vocab_files.h"
#include "tests/fuzz/model/tokenizer_samples.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  std::string_view config = input.TakeLine();
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
