// Offsite-Tuning (Xiao et al., 2302.04870): devices tune the ends of a model, its adapters, around a smaller middle,
// the emulator, and never have the model. What they tuned is then plugged into the whole.
//
// An emulator folder is a model's folder like any other, with its layers counted anew, and emulator.json, which says
// which layers they are and of which weights; runs do not send that file to devices. Free of LibTorch. Thread-safety:
// pure functions, but for files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"
#include "peft/adapter/adapter.h"
#include "peft/adapter/base_model.h"

namespace heddle::peft {

inline constexpr const char* kEmulatorFile = "emulator.json";

// How the layers between the ends were trained (distil.h): for the record. The losses are those of the first step's
// batch, before it, and of the last one's.
struct Distillation {
  std::string data;                    // name of the file or folder
  std::optional<Sha256Digest> sha256;  // of a file
  int64_t steps = 0, warmup_steps = 0, batch_size = 0, sequence_length = 0;
  uint64_t seed = 0;
  double learning_rate = 0, lm_weight = 0, kd_weight = 0;
  double first_lm = 0, first_kd = 0, last_lm = 0, last_kd = 0;
  friend bool operator==(const Distillation&, const Distillation&) = default;
};

struct Emulator {
  std::vector<int64_t> layers;                 // of the whole, in order
  int64_t num_layers = 0;                      // of the whole
  int64_t ends = 0;                            // layers of each adapter
  BaseWeightFiles weights;                     // of the whole
  std::optional<Distillation> distilled = {};  // nothing: its layers are the whole's to the bit
  // Between the ends: their numbers in the whole.
  std::vector<int64_t> Middle() const;
};

// Values in place of the model's own, under the names of the whole and in the types that it stores; and whence.
struct Distilled {
  StateDict values;
  Distillation how;
};

// The emulator that MakeEmulator would make, without weights; reads config.json only. For who has much to do before.
// Errors: those of MakeEmulator but for the model's tensors and for writing.
Result<Emulator> PlanEmulator(const std::filesystem::path& model, int64_t ends, int64_t kept,
                              const std::filesystem::path& out);

// Writes `out`: config.json and model.safetensors for the first and last `ends` layers and `kept` of those between
// (EmulatorLayers in model/parts/sub_model.h), and the model's other files but weights. Tensors keep their type; they
// go from file to file, so memory does not grow with the model. config.json comes last: without it the folder is no
// model. `distilled`, when given: values of layers between the ends. Errors: kInvalidArgument for numbers of layers
// that the model does not have, and for a value that is of no layer between the ends or of another shape or type;
// kAlreadyExists when `out` holds something; those of reading, of ConfigOfLayers and of files.
Result<Emulator> MakeEmulator(const std::filesystem::path& model, int64_t ends, int64_t kept,
                              const std::filesystem::path& out, const Distilled* distilled = nullptr);

// Errors: kNotFound; kInvalidArgument when the file is damaged.
Result<Emulator> ReadEmulator(const std::filesystem::path& folder);

// An adapter of the emulator as one of the whole: its layers' numbers are those of the whole again, and layers that the
// emulator left out have none. Errors: kInvalidArgument when it tunes virtual tokens of every layer or what is not said
// by layer, names a layer that the emulator does not have, or tunes a layer that was distilled: the whole has another.
Result<Adapter> PlugIn(const model::ModelSpec& whole, const Emulator& emulator, const Adapter& tuned);

// PlugIn for folders, with base_model.json for the whole. Errors: also kInvalidArgument when `tuned` was made for
// another base than `emulator`, or the emulator of another model than `model`.
Status PlugInFolder(const std::filesystem::path& emulator, const std::filesystem::path& tuned,
                    const std::filesystem::path& model, const std::filesystem::path& out);

}  // namespace heddle::peft
