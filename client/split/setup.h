// What a SplitDevice needs, from a plan and the device's own data.
//
// Include only from translation units of targets with TORCH, never beside protobuf code. Thread-safety: that of
// TaskResources.
#pragma once

#include <filesystem>

#include "client/split/device.h"
#include "client/worker/task_resources.h"

namespace heddle::client {

// Loads the device's part of plan.base_model, and no other tensor of it, through `resources`, which must outlive the
// device. `data`: what client/worker/head_data.h reads. With noise or randomised labels the device's secret is the file
// split.secret beside the state file, made with mode 0600 when there is none. `compute`: what the device computes on,
// "cpu" or "cuda" (refused with noise: a step that is computed again must have the same bits). Errors: those of
// DeviceFromName, DevicePart, GetBase and BaseModelDigest; data are read when a round begins.
Result<SplitDeviceOptions> PrepareSplitDevice(const protocol::SplitPlan& plan, const std::filesystem::path& data,
                                              TaskResources& resources, const std::filesystem::path& state_file = {},
                                              const std::string& compute = "cpu");

}  // namespace heddle::client
