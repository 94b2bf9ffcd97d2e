// The files that tokenizers had before tokenizer.json: vocab.txt of BERT, vocab.json with merges.txt of GPT-2 and
// RoBERTa. They are turned into the tokenizer.json that says the same. Internal to the tokenizer. Pure functions.
#pragma once

#include <boost/json/fwd.hpp>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// `config`: the text of tokenizer_config.json, which says whether the model is cased, and what is put around a text;
// empty where there is none: BERT, uncased; GPT-2. Errors: kInvalidArgument, with the line where that helps.
Result<boost::json::object> TokenizerFromVocabTxt(std::string_view vocab, std::string_view config);
Result<boost::json::object> TokenizerFromMerges(std::string_view vocab_json, std::string_view merges,
                                                std::string_view config);

}  // namespace heddle::model
