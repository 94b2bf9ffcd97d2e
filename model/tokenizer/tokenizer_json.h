// Reads tokenizer.json, and the older files that say the same, into the parts of a tokenizer. Internal to the
// tokenizer. Pure functions. Errors of all: kInvalidArgument (malformed, or inconsistent, and where); kUnimplemented (a
// part that is not supported, by name).
#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/token_model.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

struct TokenizerParts {
  AddedTokens unnormalized{{}}, normalized{{}};  // found before and after the normalizer
  std::unique_ptr<const Normalizer> normalizer;  // null: none
  std::unique_ptr<const PreTokenizer> pre_tokenizer;
  std::unique_ptr<const TokenModel> model;
  std::unique_ptr<const Decoder> decoder;  // null: the texts of the tokens in a row
  PostProcessor post_processor;
  Vocabulary vocabulary;
  SpecialTokens special;
  // Decode gives back the bytes that were encoded.
  bool keeps_bytes = false;
};

// `config` is the text of tokenizer_config.json, or empty. Where it contradicts tokenizer.json, it holds, as in the
// reference's classes: do_lower_case, strip_accents and tokenize_chinese_chars (BertNormalizer), add_prefix_space
// (ByteLevel), add_bos_token and add_eos_token (of a tokenizer_class Llama...).
Result<TokenizerParts> ParseTokenizerJson(std::string_view text, std::string_view config = {});
// Its errors do not name the file, which the caller knows.
Result<TokenizerParts> ParseTokenizer(const boost::json::object& root);
// Sets the special tokens from bos_token and so on of tokenizer_config.json. One of them that is no token is an error
// for bos and eos, and otherwise none.
Status ApplyTokenizerConfig(std::string_view text, TokenizerParts* parts);

}  // namespace heddle::model
