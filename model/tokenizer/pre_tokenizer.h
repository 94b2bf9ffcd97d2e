// How a text is cut into words, none of which a token crosses: the "pre_tokenizer" of tokenizer.json. Immutable after
// building; thread-safe. Any bytes are legal input.
#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// Receives the words of a text in order. They live as long as the call only.
class WordSink {
 public:
  virtual ~WordSink() = default;
  // `first`: the word is the beginning of what was given to the tokenizer.
  virtual void Word(std::string_view word, bool first) = 0;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Split(std::string_view text, bool first, WordSink& sink) const = 0;
};

struct ParsedPreTokenizer {
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // null: the whole text is one word
  bool byte_level = false;                            // the words are bytes, of the byte-level alphabet
  bool keeps_bytes = true;                            // the words together are the text
};

// BertPreTokenizer, ByteLevel (must be the last), CharDelimiterSplit, Digits, Metaspace, Punctuation, Sequence, Split,
// Whitespace, WhitespaceSplit. Errors: kInvalidArgument; kUnimplemented (a type that is not known, by name).
Result<ParsedPreTokenizer> ParsePreTokenizer(const boost::json::value* value);

// Cuts before each run of U+2581, the sign for a space. For vocabularies in which no token crosses such a place, and no
// pre-tokenizer: the same tokens, from many short words instead of one long one.
std::unique_ptr<const PreTokenizer> CutBeforeSpaceSigns();

}  // namespace heddle::model
