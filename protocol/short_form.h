// The short form of assignments: a device that works on a run hears much the same in each round, and need not be told
// again what it keeps. It says the key of the lasting part of its last assignment with its check-in; where that is the
// lasting part of the new one too, the new one comes without it. The coordinator remembers nothing for this.
//
// Thread-safety: pure functions.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "protocol/v1/task.pb.h"

namespace heddle::protocol {

// The assignment without its id, round, attempt and deadline, and of its plan without the seed, the adapter's last
// file, the learning rate and the first direction: what is likely to be said again.
v1::TaskAssignment LastingPart(const v1::TaskAssignment& whole);

// The first eight bytes of the SHA-256 of its serialisation, little-endian; 1 in place of 0.
uint64_t LastingKey(const v1::TaskAssignment& lasting);

// Puts the assignment into the short form where `known` is the key of its lasting part; else leaves it as it is.
void Shorten(uint64_t known, v1::TaskAssignment* assignment);

// The short form made whole again and validated, without key and patch. Errors: kInvalidArgument: its key is not that
// of `lasting`, or what comes of it is no assignment.
Result<v1::TaskAssignment> Completed(const v1::TaskAssignment& lasting, const v1::TaskAssignment& sent);

}  // namespace heddle::protocol
