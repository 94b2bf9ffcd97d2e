// One coordinator a state folder.
#pragma once

#include <filesystem>

#include "common/file.h"
#include "common/status.h"

namespace heddle::coordinator {

// Locks <state_dir>/lock, which is made if need be, for the life of the descriptor; the system lets go of it when the
// process ends, however it ends. A program that acts on the database itself holds it too, so that no coordinator starts
// meanwhile. Errors: kFailedPrecondition when another process has it; those of opening the file.
Result<UniqueFd> LockState(const std::filesystem::path& state_dir);

}  // namespace heddle::coordinator
