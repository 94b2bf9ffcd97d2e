// Whether bytes are valid UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). Pure functions.
#pragma once

#include <cstddef>
#include <string_view>

namespace heddle::model {

// The position of the first byte that is not part of a valid character; text.size() when all is valid.
size_t FirstInvalidUtf8(std::string_view text);

}  // namespace heddle::model
