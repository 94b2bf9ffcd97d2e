// Offsite-Tuning (Xiao et al., 2302.04870): devices tune the ends of a model, its adapters, around a smaller middle,
// the emulator, and never have the model. What they tuned is then plugged into the whole.
//
// An emulator folder is a model's folder like any other, with its layers counted anew, and emulator.json, which says
// which layers they are and of which weights; runs do not send that file to devices. Free of LibTorch. Thread-safety:
// pure functions, but for files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "peft/adapter/adapter.h"
#include "peft/adapter/base_model.h"

namespace heddle::peft {

inline constexpr const char* kEmulatorFile = "emulator.json";

struct Emulator {
  std::vector<int64_t> layers;  // of the whole, in order
  int64_t num_layers = 0;       // of the whole
  int64_t ends = 0;             // layers of each adapter
  BaseWeightFiles weights;      // of the whole
};

// Writes `out`: config.json and model.safetensors for the first and last `ends` layers and `kept` of those between
// (EmulatorLayers in model/parts/sub_model.h), and the model's other files but weights. Tensors keep their type; they
// go from file to file, so memory does not grow with the model. Errors: kInvalidArgument for numbers of layers that the
// model does not have; kAlreadyExists when `out` holds something; those of reading, of ConfigOfLayers and of files.
Result<Emulator> MakeEmulator(const std::filesystem::path& model, int64_t ends, int64_t kept,
                              const std::filesystem::path& out);

// Errors: kNotFound; kInvalidArgument when the file is damaged.
Result<Emulator> ReadEmulator(const std::filesystem::path& folder);

// An adapter of the emulator as one of the whole: its layers' numbers are those of the whole again, and layers that the
// emulator left out have none. Errors: kInvalidArgument when it tunes virtual tokens of every layer or what is not said
// by layer, or names a layer that the emulator does not have.
Result<Adapter> PlugIn(const model::ModelSpec& whole, const Emulator& emulator, const Adapter& tuned);

// PlugIn for folders, with base_model.json for the whole. Errors: also kInvalidArgument when `tuned` was made for
// another base than `emulator`, or the emulator of another model than `model`.
Status PlugInFolder(const std::filesystem::path& emulator, const std::filesystem::path& tuned,
                    const std::filesystem::path& model, const std::filesystem::path& out);

}  // namespace heddle::peft
