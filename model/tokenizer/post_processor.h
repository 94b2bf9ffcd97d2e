// What is put around the ids of a text, or between those of a pair: the "post_processor" of tokenizer.json. Immutable
// after building; thread-safe.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/encoding.h"

namespace heddle::model {

class PostProcessor {
 public:
  struct Step {
    enum class Kind : uint8_t { kFirst, kSecond, kSpecial };
    Kind kind = Kind::kFirst;
    int32_t id = -1;  // of kSpecial
    int32_t type_id = 0;
  };
  // Nothing is added; the second text has type 1.
  PostProcessor();
  // `single` has the first text in it, `pair` both.
  PostProcessor(std::vector<Step> single, std::vector<Step> pair);

  // BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing; absent: nothing is added. Ids that are
  // not below `vocab_size` are refused. Errors: kInvalidArgument; kUnimplemented (a type that is not known, by name).
  static Result<PostProcessor> FromJson(const boost::json::value* value, int64_t vocab_size);

  const std::vector<Step>& single() const { return single_; }
  const std::vector<Step>& pair() const { return pair_; }

  // Truncates, adds, numbers. `second` may be null. Errors: as Truncate().
  Result<Encoding> Build(std::vector<int32_t> first, std::vector<int32_t>* second, const EncodeOptions& options) const;

 private:
  std::vector<Step> single_, pair_;
};

}  // namespace heddle::model
