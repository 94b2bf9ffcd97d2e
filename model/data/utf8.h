// Whether bytes are valid UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "common/status.h"

namespace heddle::model {

// The position of the first byte that is not part of a valid character; text.size() when all is valid.
size_t FirstInvalidUtf8(std::string_view text);

// Ok when all of `text` is valid; else kInvalidArgument with line and byte. `line`: of its beginning, in a file.
Status CheckUtf8(std::string_view text, int64_t line);

}  // namespace heddle::model
