// The files that tokenizers had before tokenizer.json: vocab.txt of BERT, vocab.json with merges.txt of GPT-2 and
// RoBERTa, and what was added to them later. They are turned into the tokenizer.json that says the same. Internal to
// the tokenizer. Pure functions.
#pragma once

#include <boost/json/fwd.hpp>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// `config`: the text of tokenizer_config.json, which says whether the model is cased, and what is put around a text;
// empty where there is none: BERT, uncased; GPT-2, or RoBERTa where that is the model's type in config.json
// (`model_type`). Errors: kInvalidArgument, with the line where that helps.
Result<boost::json::object> TokenizerFromVocabTxt(std::string_view vocab, std::string_view config);
Result<boost::json::object> TokenizerFromMerges(std::string_view vocab_json, std::string_view merges,
                                                std::string_view config, std::string_view model_type = "");

// The texts of tokenizer_config.json and special_tokens_map.json as one: what the first does not name, the second may.
// Either may be empty; both: nothing. Errors: kInvalidArgument.
Result<std::string> MergedTokenizerConfig(std::string_view config, std::string_view special_map);

// Tokens that were added to a vocabulary: those of added_tokens.json (names and ids), and added_tokens_decoder in
// tokenizer_config.json, which also says how each is found. Either text may be empty. In the form of tokenizer.json's
// list, in order of ids. Errors: kInvalidArgument.
Result<boost::json::array> AddedTokensOf(std::string_view added_json, std::string_view config);

}  // namespace heddle::model
