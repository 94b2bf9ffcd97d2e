// What is done to a text before it is cut: the "normalizer" of tokenizer.json. Immutable after building; thread-safe.
// Any bytes are legal input. What maps characters one by one turns a byte that is not part of valid UTF-8 into U+FFFD;
// the forms of Unicode and what looks for texts leave it.
#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Changes the text in place.
  virtual void Apply(std::string* text) const = 0;
  // The same, but may end early once there are more than `most` bytes. For those that one character can make hundreds
  // of bytes of; all others make at most a few times as much.
  virtual void ApplyWithin(size_t /*most*/, std::string* text) const { Apply(text); }
};

// A hostile map, or chain of replacements, could make a text longer than any memory: of what a text of so many bytes
// becomes, no more than this is kept.
size_t MaxNormalizedBytes(size_t bytes);

struct BertNormalizerOptions {
  bool clean_text = true;             // control characters go, white space becomes a space
  bool handle_chinese_chars = true;   // spaces around ideographs
  std::optional<bool> strip_accents;  // not given: when lowercase
  bool lowercase = true;
};
std::unique_ptr<const Normalizer> MakeBertNormalizer(const BertNormalizerOptions& options);

// BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Sequence, Strip, StripAccents.
// Null for an absent value. No text becomes longer than MaxNormalizedBytes; what would is cut there. Errors:
// kInvalidArgument; kUnimplemented (a type that is not known, by name).
Result<std::unique_ptr<const Normalizer>> ParseNormalizer(const boost::json::value* value);

}  // namespace heddle::model
