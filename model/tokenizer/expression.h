// The regular expressions of tokenizer.json are Oniguruma's, in Ruby's syntax; PCRE2 reads most of them alike, and some
// as something else without a word. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// The expression in PCRE2's words, to be compiled with PCRE2_UCP and PCRE2_MULTILINE. Written anew are \s, \w, \b, \h,
// \v, \p{SCRIPT} and names like [:alpha:] (other characters), sets within sets and intersections with && (only
// Oniguruma's). What is wrong in both is left to PCRE2 to say. Errors: kUnimplemented (PCRE2 would read it otherwise,
// and it is not written anew; or sets nested more than 8 deep), kInvalidArgument (a set without an end).
Result<std::string> ToPcre2(std::string_view expression);

}  // namespace heddle::model
