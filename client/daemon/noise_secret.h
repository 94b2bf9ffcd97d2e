// What the worker draws an update's noise from, where a plan asks for noise (aggregation/privacy/update_privacy.h): a
// file in the work folder, beside the update that the task writes. It holds nothing but this task's own secret; the
// device's own, `noise.secret` in the state folder, stays with the daemon.
//
// Of the daemon's thread.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "protocol/v1/task.pb.h"

namespace heddle::client {

// Before a task: writes the file, readable by its owner only; nothing where the plan asks for none. Errors: those of
// ParseUpload and DeviceSecret; those of files.
Status PlaceNoiseSecret(const v1::TaskPlan& plan, const std::filesystem::path& state_dir,
                        const std::filesystem::path& work);

}  // namespace heddle::client
