#include "common/assert.h"

#include <cstdio>
#include <cstdlib>

namespace heddle {

void AssertFailed(const char* file, int line, const char* condition, const char* message) {
  std::fprintf(stderr, "%s:%d: assertion failed: %s (%s)\n", file, line, condition, message);
  std::abort();
}

}  // namespace heddle
