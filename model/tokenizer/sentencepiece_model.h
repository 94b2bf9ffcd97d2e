// A SentencePiece model file ("tokenizer.model", "spiece.model"): what of it changes ids or text. Read from the bytes
// of its protocol buffer without the SentencePiece library (docs/decisions/0009-sentencepiece.md says why). Pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/precompiled.h"

namespace heddle::model {

struct SentencePieceModel {
  enum class Type { kUnigram = 1, kBpe = 2 };
  struct Piece {
    enum class Kind { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
    std::string text;
    float score = 0;
    Kind kind = Kind::kNormal;
  };
  std::vector<Piece> pieces;  // by id; texts are not empty, and differ
  Type type = Type::kUnigram;
  bool byte_fallback = false, whitespace_as_suffix = false;
  int32_t unknown = -1;  // always a piece
  int32_t bos = -1, eos = -1, pad = -1;
  std::string unknown_surface = " \u2047 ";  // what an unknown piece is decoded to
  // Of the normalizer.
  std::optional<CharsMap> charsmap;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

// Errors: kInvalidArgument (what is wrong); kUnimplemented (models of words or characters, by name; a denormalizer).
Result<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

}  // namespace heddle::model
