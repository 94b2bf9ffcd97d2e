// A language model as a classifier: what it is asked about a text, and which word answers for which class (a pattern
// and its verbaliser; Schick and Schütze, 2001.07676).
//
//   pattern "{text} It was {mask}.", words "great", "terrible"
//
// A masked model reads its mask token at {mask} and the logits of the words there are those of the classes; for a
// causal one {mask} ends the pattern and the next token is asked for. {text} and {mask} stand once, {pair} (the second
// text) at most once. Pieces of the pattern and texts are encoded each by itself; the texts are cut where there are too
// many tokens, the second before the first, the pattern never. A word must be one token.
//
// Free of LibTorch. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/data/batch.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

class Prompt {
 public:
  // Errors: kInvalidArgument: the model is no language model; the pattern lacks {text} or {mask}, has one of its fields
  // twice or, of a causal model, something behind {mask}; the tokenizer has no mask token; a word is not one token, or
  // two words are the same one.
  static Result<Prompt> Make(const ModelSpec& spec, std::shared_ptr<const Tokenizer> tokenizer,
                             const std::string& pattern, const std::vector<std::string>& words);

  // Of the example only the texts and the label are read. Errors: kInvalidArgument when the pattern alone has more than
  // `max_tokens`, or asks for a second text that the example lacks.
  Result<EncodedExample> Encode(const TextExample& example, int64_t max_tokens) const;
  // The column whose logits answer.
  int64_t AnswerOf(const EncodedExample& encoded) const;
  // Of each class, the token.
  const std::vector<int32_t>& words() const { return words_; }

 private:
  enum class Field : uint8_t { kNone, kText, kPair, kMask };
  struct Piece {
    Field field = Field::kNone;
    std::vector<int32_t> ids;  // of kNone and kMask
  };
  Prompt() = default;
  Status ReadPattern(const std::string& pattern);
  Status ReadWords(const std::vector<std::string>& words, bool after_space);
  std::vector<int32_t> EncodePiece(std::string_view text, bool begins) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  bool masked_ = false;
  bool own_spaces_ = false;  // the tokenizer begins words by itself, so spaces at the ends of pieces are dropped
  std::vector<int32_t> begin_, end_;
  std::vector<Piece> pieces_;
  std::vector<int32_t> words_;
};

}  // namespace heddle::model
