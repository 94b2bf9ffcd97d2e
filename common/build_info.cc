#include "common/build_info.h"

namespace heddle {

std::string_view VersionString() { return HEDDLE_VERSION; }

}  // namespace heddle
