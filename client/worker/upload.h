// The end of a task: its update as the bytes that travel, smaller where the plan asks for it. Free of LibTorch and
// Protobuf; the worker and the simulator use it alike.
//
// Thread-safety: pure functions but for the files they read.
#pragma once

#include <string>
#include <string_view>

#include "client/worker/local_task.h"

namespace heddle::client {

// Names of what a device keeps of its updates, before the names of their tensors.
inline constexpr std::string_view kResidualPrefix = "heddle.residual.";

// Whether this program can do what rules.upload asks: to be called before anything is computed. Errors:
// kInvalidArgument with the words it does not know.
Status CheckUpload(const TrainRules& rules);

// Without rules.upload the canonical safetensors of output->update. With it the encoded form (docs/formats.md), its
// random choices by input.seed. With error feedback what was left out of this device's accepted updates (in
// input.personal_path) joins before, and output->personal gets what is left out now, and what is left of tensors that
// are not in this update; of factors whose rank is smaller by now it is cut to that, of other tensors that have another
// shape it is dropped. Errors: those of CheckUpload and of
// Compressor::Encode; those of the file, which begins anew when it is damaged.
Result<std::string> MakeUpload(const TaskInput& input, TaskOutput* output);

}  // namespace heddle::client
