// Some layers of a model as a model of its own: config.json, names, and the way back.
//
// Two uses. A device trains a part with the layers' own numbers (ModelPart::layers). An emulator (Offsite-Tuning; Xiao
// et al., 2302.04870) is a folder of its own, in which the layers are counted anew.
//
// Pure functions; thread-safe. Free of LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

// `kept` of 0 .. count - 1, evenly: the i-th is i (count - 1) / (kept - 1), rounded to the nearest, halves to even; the
// first and the last are among them (of one: the first). 20 to 8: 0 3 5 8 11 14 16 19. 0 <= kept <= count (asserted).
std::vector<int64_t> SpreadLayers(int64_t count, int64_t kept);

// The layers of an emulator: the first and the last `ends` (the adapters), and of those between them `kept`, spread.
// Errors: kInvalidArgument when ends is below 1, the ends meet, or there are fewer than `kept` between them.
Result<std::vector<int64_t>> EmulatorLayers(int64_t num_layers, int64_t ends, int64_t kept);

// The text of config.json for a model of these layers only (rising, counted from 0). What is said of single layers
// follows them. Errors: those of ParseModelConfig; kInvalidArgument for layers that the model does not have;
// kUnimplemented when the smaller model's config.json cannot say what those layers are.
Result<std::string> ConfigOfLayers(std::string_view config_json, const std::vector<int64_t>& layers);

// The name of a module or parameter of the whole in a model of `layers`, where those are counted anew; nothing when
// its layer is not among them. Names outside of layers stay.
std::optional<std::string> NameAmongLayers(const ModelSpec& whole, std::string_view name,
                                           const std::vector<int64_t>& layers);
// The way back. Nothing for a layer beyond them.
std::optional<std::string> NameInWhole(const ModelSpec& whole, std::string_view name,
                                       const std::vector<int64_t>& layers);

// A checkpoint's tensors as those of a model of these layers, under its names; they share their bytes. Errors: those of
// ModelSpec::CheckTensors.
Result<StateDict> TensorsOfLayers(const ModelSpec& whole, const StateDict& checkpoint,
                                  const std::vector<int64_t>& layers);

}  // namespace heddle::model
