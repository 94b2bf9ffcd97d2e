// Which Heddle this is: what --version prints, what runs and metrics record. Constant for the life of the process; any
// thread.
#pragma once

#include <string_view>

namespace heddle {

// "0.1.0+1a2b3c4d": the version and, after '+', the git revision that the build was configured at. "0.1.0" when the
// sources are not a git checkout.
std::string_view VersionString();

}  // namespace heddle
