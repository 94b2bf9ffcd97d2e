// What a SplitServer needs, from a plan.
//
// Include only from translation units of targets with TORCH, never beside protobuf code. Thread-safety: a pure function
// on the files.
#pragma once

#include <filesystem>

#include "coordinator/split/server.h"

namespace heddle::coordinator {

// Loads the server's part of plan.base_model; of the device's only what its adapter's first values come from.
// `compute`: what the server computes on, "cpu" or "cuda"; no part of the plan, as sides may differ. Errors: those of
// DeviceFromName, ServerPart, BaseWeights::Load, InitialSide and BaseModelDigest.
Result<SplitServerOptions> PrepareSplitServer(const protocol::SplitPlan& plan, const std::filesystem::path& folder,
                                              const std::string& compute = "cpu");

}  // namespace heddle::coordinator
