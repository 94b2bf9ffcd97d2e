// What a device does to its update before it leaves the device, where a recipe has [privacy]: the whole update, all
// tensors together, is scaled to at most an L2 norm, and Gaussian noise is added to each of its values
//
//   u <- u min(1, C / ||u||),   u <- u + N(0, (z C)^2 I)
//
// (the Gaussian mechanism on each device's update; with offsite tuning: TechRxiv 24191886). What that guarantees is in
// accountant.h. Whatever makes updates smaller comes after it and reads only what this has let through.
//
// In a plan the two settings are the first words of DeviceRules.upload, "clip:C" and "noise:z": a device that does not
// know them refuses the task, as it does with every word that it does not know. A field of their own would be skipped
// by such a device, which would then send its update as it is.
//
// Where the noise comes from. Philox streams keyed by a secret of the device, by the task (TaskSecret: the whole plan,
// so model, seed, settings), by C and z, and by the update itself. So
//   - a task that is done again, after a crash or in another attempt of its round, sends the same bytes: a second draw
//     of noise for the same update would tell more of it;
//   - no two different updates share their noise, nor does one update under two settings: else their difference would
//     be free of it;
//   - whether two tasks, of two rounds or of two models, made the same update cannot be seen.
// What is sent lies on a grid of about a millionth of the noise, so that the last bits of a value say nothing about the
// update. Philox is no cipher: against somebody who can break it this protects nothing.
//
// Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::privacy {

// Bounds of the two settings. Below the least noise there is nothing to guarantee, and float32 would swallow it.
inline constexpr double kMinClip = 1e-6, kMaxClip = 1e9;
inline constexpr double kMinNoise = 1e-3, kMaxNoise = 1e6;
// No element of noise is larger than so many standard deviations (common/normals.h).
inline constexpr double kMostDeviations = 8.6;

struct UpdatePrivacy {
  double clip = 0;              // C, the L2 norm; 0: nothing is done
  double noise_multiplier = 0;  // z; 0: clipping only
  bool on() const { return clip > 0; }
  double deviation() const { return clip * noise_multiplier; }  // of the noise, in the units of the update
  std::vector<std::string> Words() const;                       // as in a plan; none where nothing is done
  friend bool operator==(const UpdatePrivacy&, const UpdatePrivacy&) = default;
};

// A plan's words: what they say here, and the rest, which are stages that make the update smaller
// (aggregation/compression/pipeline.h) or unknown. Errors: kInvalidArgument for a word of these two whose number is
// none or out of range; one in another place is left in the rest.
struct PlannedUpload {
  UpdatePrivacy privacy;
  std::vector<std::string> rest;
};
Result<PlannedUpload> ParseUpload(std::span<const std::string> words);

// What the noise of a task comes from; `device_secret` is not empty, `plan` is the serialised heddle.v1.TaskPlan. 64
// hex digits, which say nothing about the secret nor about those of other tasks.
std::string TaskSecret(std::string_view device_secret, std::string_view plan);

// The update as it leaves the device, of the same names and shapes. `task_secret` is read with noise only. Errors:
// kFailedPrecondition without a secret; kInvalidArgument for a tensor that is not float32; kInternal for an update that
// is not finite; kResourceExhausted without memory.
Result<StateDict> MakePrivate(const StateDict& update, const UpdatePrivacy& how, std::string_view task_secret);

}  // namespace heddle::privacy
