// A tokenizer from a SentencePiece model: the ids that the SentencePiece library gives, and the text (a test compares
// them). Control pieces ("<s>") are never found in a text. Immutable but for a cache of words; thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "common/status.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

struct SentencePieceSettings {
  // What EncodeText puts around a text. Not given: the beginning where the model has one, else the end.
  std::optional<bool> add_bos, add_eos;
};

// Errors: as ParseSentencePieceModel().
Result<std::shared_ptr<const Tokenizer>> ReadSentencePiece(std::string_view model_bytes,
                                                           const SentencePieceSettings& settings);

}  // namespace heddle::model
