// `heddle model emulator --distil`: an emulator whose layers between the ends have learned, on the owner's own data, to
// do what the model's do (peft/parts/distil.h). AdamW, a linear warm-up and a cosine, gradients clipped to norm 1; all
// in float32, what is stored is in the model's types. Free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <ostream>
#include <string>

#include "common/status.h"
#include "peft/parts/emulator.h"

namespace heddle::client {

struct DistilSettings {
  std::filesystem::path folder, out;  // the model; the emulator
  int64_t ends = 1, kept = 0;         // as MakeEmulator
  std::filesystem::path data;         // what training reads for the model's head (client/worker/head_data.h)
  uint32_t steps = 1000, batch_size = 8;
  std::optional<uint32_t> warmup_steps;  // nothing: a tenth of the steps
  uint32_t sequence_length = 0;          // tokens of a row; 0: 512, or what the model takes at most
  double learning_rate = 1e-4, lm_weight = 1, kd_weight = 30;
  uint64_t seed = 1;
  std::string device;    // "cpu" (also when empty) or "cuda"
  unsigned threads = 0;  // 0: LibTorch's own number
};

// Writes settings.out when all steps are done, and nothing before. A line of `progress` about every twentieth of the
// steps. The same settings and files give the same bytes on one machine's processor (with one number of threads).
// Errors: those of PlanEmulator and MakeEmulator; kInvalidArgument when nothing is left out or nothing is kept between
// the ends, or a setting is out of range; those of the data; kInternal when the loss is not finite.
Result<peft::Emulator> DistilEmulator(const DistilSettings& settings, std::ostream& progress);

}  // namespace heddle::client
