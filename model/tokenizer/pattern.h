// What normalizers and pre-tokenizers look for: a text, or a regular expression (PCRE2, the wall around it is here).
// Immutable after building; thread-safe. Any bytes are legal subjects: a regular expression matches no byte that is not
// part of valid UTF-8.
#pragma once

#include <boost/json/fwd.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

class Pattern {
 public:
  virtual ~Pattern() = default;
  // Calls `found` with [begin, end) of each match in order, none overlapping. A match may be empty. Where a regular
  // expression takes too many steps at one place, the rest of the text counts as one without a match.
  using Found = std::function<void(size_t begin, size_t end)>;
  virtual void ForEachMatch(std::string_view text, const Found& found) const = 0;

  // An expression means what it means in Oniguruma. Errors: kInvalidArgument (an empty text; what is wrong in the
  // expression); kUnimplemented (one that PCRE2 cannot say, see expression.h).
  static Result<std::unique_ptr<const Pattern>> OfText(std::string text);
  static Result<std::unique_ptr<const Pattern>> OfRegex(std::string_view expression);
  // {"String": ...} or {"Regex": ...}, or a text. `where` names it in messages.
  static Result<std::unique_ptr<const Pattern>> FromJson(const boost::json::value* value, std::string_view where);
};

}  // namespace heddle::model
