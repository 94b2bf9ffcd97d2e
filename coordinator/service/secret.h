// Random texts that open doors: enrolment tokens and the administrator's token. Thread-safe.
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"

namespace heddle::coordinator {

// `bytes` random bytes from the system's generator, as URL-safe base64 without padding. Errors: kInternal.
Result<std::string> RandomText(size_t bytes);

// The text in the file (without white space at its end), which is made with mode 0600 and 32 random bytes when absent.
// Errors: those of files; kInvalidArgument when the file is empty.
Result<std::string> ReadOrMakeSecret(const std::filesystem::path& path);

}  // namespace heddle::coordinator
