// Which failures of storage pass by themselves, so that what failed is tried again and nothing is thrown away for it.
//
// A pure function; thread-safe.
#pragma once

#include "common/status.h"

namespace heddle {

// What is of the moment and nobody's mistake: a disk that is full or not writable, no memory, no descriptors, a held
// lock.
inline bool MayPass(Code code) {
  return code == Code::kResourceExhausted || code == Code::kPermissionDenied || code == Code::kUnavailable;
}

}  // namespace heddle
