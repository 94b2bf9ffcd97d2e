// The end of a task: its update as the bytes that travel, clipped and noised (aggregation/privacy/update_privacy.h) and
// then made smaller where the plan asks for it. Free of LibTorch and Protobuf; the worker and the simulator use it
// alike.
//
// Thread-safety: pure functions but for the files they read.
#pragma once

#include <string>
#include <string_view>

#include "client/worker/local_task.h"

namespace heddle::client {

// Names of what a device keeps of its updates, before the names of their tensors.
inline constexpr std::string_view kResidualPrefix = "heddle.residual.";

// The device's own secret in the daemon's state folder, and this task's in the folder of its work, beside the update.
inline constexpr std::string_view kNoiseSecretFile = "noise.secret";

// Whether this program can do what rules.upload asks: to be called before anything is computed. Errors:
// kInvalidArgument with the words it does not know; kFailedPrecondition for noise without a secret.
Status CheckUpload(const TrainRules& rules, std::string_view noise_secret = {});

// Without rules.upload the canonical safetensors of output->update. With it first the update's clipping and noise,
// which comes from `noise_secret` (privacy::TaskSecret; empty: none), then the encoded form (docs/formats.md), its
// random choices by input.seed. With noise the losses and what follows from them are withheld from output->stats (NaN):
// they would tell of the data what the noise hides.
//
// With error feedback what was left out of this device's accepted updates (in input.personal_path) joins before it is
// encoded, and output->personal gets what is left out now, and what is left of tensors that are not in this update; of
// factors whose rank is smaller by now it is cut to that, of other tensors that have another shape it is dropped. All
// of it has its noise.
//
// Errors: those of CheckUpload, of privacy::MakePrivate, and of Compressor::Encode; those of the file, which begins
// anew when it is damaged.
Result<std::string> MakeUpload(const TaskInput& input, TaskOutput* output, std::string_view noise_secret = {});

}  // namespace heddle::client
