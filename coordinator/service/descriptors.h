// File descriptors of this process: a connection takes one and an upload under way another, so the limit must be at
// least as high as the connections that the configuration promises.
//
// Thread-safety: from one thread, before the service starts; the limit is the process's.
#pragma once

#include <cstdint>

#include "common/status.h"

namespace heddle::coordinator {

// What the coordinator needs besides its devices' connections: the database, the log, blobs on their way out, and the
// loopback listener's connections.
inline constexpr uint64_t kOwnDescriptors = 512;

// Raises the soft limit as far as `connections` and an upload for each need. Returns how many devices can be connected:
// `connections`, or fewer, with a warning in the log, where the hard limit is lower. Errors: kResourceExhausted when it
// leaves room for none.
Result<uint64_t> ReserveDescriptors(uint64_t connections);

}  // namespace heddle::coordinator
