// From tokens back to text: the "decoder" of tokenizer.json. Immutable after building; thread-safe.
#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"

namespace heddle::model {

class Decoder {
 public:
  virtual ~Decoder() = default;
  // Changes the texts of tokens; put together they are the text.
  virtual void Apply(std::vector<std::string>* tokens) const = 0;
};

// ByteFallback, ByteLevel (null: for byte-level vocabularies tokens are bytes already), Fuse, Metaspace, Replace,
// Sequence, Strip, WordPiece. Absent: tokens with spaces between. Errors: kInvalidArgument; kUnimplemented (a type that
// is not known, by name).
Result<std::unique_ptr<const Decoder>> ParseDecoder(const boost::json::value* value, bool byte_level);

}  // namespace heddle::model
