// HEDDLE_ASSERT(condition, message): always on, for bugs of our own only. Nothing that network, disk or configuration
// can cause may reach one: that is what Status is for (status.h). Prints place, condition and message, and aborts.
#pragma once

namespace heddle {

[[noreturn]] void AssertFailed(const char* file, int line, const char* condition, const char* message);

}  // namespace heddle

#define HEDDLE_ASSERT(condition, message)                                \
  do {                                                                   \
    if (!(condition)) [[unlikely]]                                       \
      ::heddle::AssertFailed(__FILE__, __LINE__, #condition, (message)); \
  } while (false)
