// What a run of split learning is: the file that the split server and its devices are both set up with. Free of
// LibTorch. A plain value.
//
//   name = "split-lora"
//   base_model = "../model/pretrained/heddle-tiny"
//   rounds = 3
//   devices_per_round = 4
//   [split]            cut, topology, server, encoding, gradient_encoding, pipeline, checkpoint_every,
//                      max_sessions, memory_limit_mb, session_timeout_s, step_timeout_s, round_timeout_s, min_devices,
//                      server_batch, server_wait_ms
//   [train]            local_steps, gradient_accumulation_steps, batch_size, sequence_length
//   [device], [server] peft_type, r, lora_alpha, lora_dropout, target_modules, layers_to_transform, optimizer,
//                      learning_rate, weight_decay, max_grad_norm; [device] also gradient_checkpointing
//   [strategy]         name, max_abs, and the numbers that the method takes
//   [privacy]          clip_norm, noise_multiplier, label_epsilon, distance_correlation
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "protocol/split/frame.h"
#include "protocol/split/schedule.h"

namespace heddle::protocol {

// Of one side: what is trained there and how.
struct SplitSide {
  std::string peft_type = "LORA";  // or BOTTLENECK, IA3, BITFIT, FULL; NONE: nothing is trained here
  int64_t r = 8;
  double lora_alpha = 16, lora_dropout = 0;
  std::vector<std::string> target_modules;  // none: all linear layers of this side
  std::vector<int64_t> layers_to_transform;
  std::string optimizer = "AdamW";
  double learning_rate = 1e-3, weight_decay = 0, max_grad_norm = 1;

  bool trains() const { return peft_type != "NONE"; }
  // Of PEFT's adapter_config.json; every linear layer of a part but the output layer without target_modules.
  std::string AdapterConfigJson() const;
};

// What a device does to what it sends (peft/split/privacy.h). 0: nothing.
struct SplitPrivacy {
  double clip_norm = 0;               // of a sample's activations at the cut
  double noise_multiplier = 0;        // their noise's standard deviation, in units of clip_norm
  double label_epsilon = 0;           // of the randomised response of labels, with label_sharing
  bool distance_correlation = false;  // devices tell how much activations say about the embeddings
};

struct SplitPlan {
  std::string name = "split";
  std::filesystem::path base_model;
  uint64_t seed = 1;
  uint32_t rounds = 1, devices_per_round = 2;

  int64_t cut = 1;
  std::string topology = "u_shaped";
  // "per_device": each device has a copy of the server's part for a round, and the copies are merged as the devices'
  // parts are (SplitFed v1). "shared": one for all, which steps with every device's step (SplitFed v2). "parallel": one
  // for all, which steps once for a step of all devices together, with the mean over all their targets (parallel split
  // learning). "sequential": one for all, and one device after the other, each of which goes on with the device's part
  // of the one before it (split learning as it was first: Gupta and Raskar, 1810.06060).
  std::string server_mode = "shared";
  CutEncoding encoding = CutEncoding::kFloat32, gradient_encoding = CutEncoding::kFloat32;
  uint32_t pipeline = 1;          // micro-batches of a device on the way at a time
  uint32_t checkpoint_every = 1;  // steps of the server between two of its checkpoints
  uint32_t max_sessions = 16;     // at a time
  // What the server may need for all it holds, in MiB, as coordinator/split/memory.h works it out; a device that would
  // go beyond it waits. 0: no limit.
  double memory_limit_mb = 0;
  // A device that is silent for so long may lose its place to another; a round in which everybody is ends without them.
  // 0: never, either.
  double session_timeout_s = 600;
  // So long after its first device a round ends without those that are not done; 0: never. None: what its turns need,
  // RoundTimeout.
  std::optional<double> round_timeout_s;
  uint32_t min_devices = 1;    // with fewer updates no round ends early
  double step_timeout_s = 30;  // parallel: so long after the first device a step waits for the last
  uint32_t server_batch = 1;   // devices whose micro-batches the server computes with in one pass
  double server_wait_ms = 10;  // for so long the longest waiting of them waits for more

  uint32_t local_steps = 8, gradient_accumulation_steps = 1, batch_size = 8, sequence_length = 64;
  SplitSide device, server;
  // A device computes its blocks again on the way back instead of keeping what they computed while it waits for the
  // server: less memory, the same bits.
  bool device_checkpointing = true;
  SplitPrivacy privacy;
  std::string strategy = "FedAvg";
  double max_abs = 16;  // of an update's elements
  // What the method itself takes, by name. Its names and ranges are not known here: the server checks them at its
  // start.
  std::map<std::string, double> strategy_settings;

  bool u_shaped() const { return topology == "u_shaped"; }
  // How often places have to be given anew until every device of a round has had one, where there is room for `places`
  // devices at a time, of which max_sessions allows no more than it says.
  uint32_t turns(uint32_t places) const;
  // round_timeout_s, or for each of so many turns the longer of an hour and what its steps may take by step_timeout_s.
  double RoundTimeout(uint32_t turns) const;
  SplitSchedule schedule() const {
    return {.u_shaped = u_shaped(), .micros = gradient_accumulation_steps, .steps = local_steps, .ahead = pipeline};
  }
  // Of what must be the same on both sides, and of how parts are merged: everything but paths and what is the server's
  // alone. `base_digest` is that of the base model's files (model/parts/part_folder.h). 64 hex digits.
  std::string Digest(std::string_view base_digest) const;

  // Errors: those of ConfigSchema, with every mistake at once; kInvalidArgument for settings that do not fit together.
  static Result<SplitPlan> LoadFile(const std::filesystem::path& path,
                                    const std::map<std::string, std::string>& overrides = {});
  static Result<SplitPlan> LoadText(std::string_view toml, const std::filesystem::path& folder, std::string_view name,
                                    const std::map<std::string, std::string>& overrides = {});
};

}  // namespace heddle::protocol
