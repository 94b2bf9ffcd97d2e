// From words to ids: the "model" of tokenizer.json. Immutable after building; thread-safe. Never fails on a word: any
// bytes are legal.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"

namespace heddle::model {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the ids of a word, which is not empty.
  virtual void Encode(std::string_view word, std::vector<int32_t>* ids) const = 0;
  // No token crosses the place before a run of U+2581 (CutBeforeSpaceSigns), so a text may be cut there.
  virtual bool CutsBeforeSpaceSigns() const { return false; }
};

// The vocabulary as the file has it. For byte-level models the texts are bytes.
struct Vocabulary {
  std::vector<std::string> texts;                // by id; empty where an id is not used
  std::unordered_map<std::string, int32_t> ids;  // of the names in the file
};

// Reads "model": its vocabulary into `vocabulary`, and what encodes. BPE, Unigram, WordPiece; where there is no
// "type", as in files of 2020 and before, that of which the members are. Errors: kInvalidArgument (malformed, or
// inconsistent, and where); kUnimplemented (a type or setting that is not known, by name).
Result<std::unique_ptr<const TokenModel>> ParseTokenModel(const boost::json::value* value, bool byte_level,
                                                          Vocabulary* vocabulary);

// Parts of the above.
Result<std::unique_ptr<const TokenModel>> ParseBpe(const boost::json::object& model, bool byte_level,
                                                   Vocabulary* vocabulary);
Result<std::unique_ptr<const TokenModel>> ParseWordPiece(const boost::json::object& model, Vocabulary* vocabulary);
Result<std::unique_ptr<const TokenModel>> ParseUnigram(const boost::json::object& model, Vocabulary* vocabulary);
// Gives an id its text. Errors: kInvalidArgument when it has another one.
Status SetTokenText(int32_t id, std::string text, Vocabulary* vocabulary);
// The ids of the tokens <0x00> to <0xFF>; kInvalidArgument when one is missing.
Result<std::vector<int32_t>> ByteTokens(const Vocabulary& vocabulary);

}  // namespace heddle::model
