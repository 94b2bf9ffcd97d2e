// Any bytes as an emulator's emulator.json: refused, or layers that rise within the model, through which an adapter
// goes to the whole or is refused.
#include "peft/parts/emulator.h"

#include "tests/fuzz/parts_model.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const heddle::fuzz::Scratch scratch;
  scratch.Write(heddle::peft::kEmulatorFile, {reinterpret_cast<const char*>(data), size});
  const auto emulator = heddle::peft::ReadEmulator(scratch.path());
  if (!emulator.ok()) {
    Require(emulator.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  int64_t least = 0;
  for (const int64_t layer : emulator->layers) {
    Require(layer >= least && layer < emulator->num_layers, "layers rise within the model");
    least = layer + 1;
  }
  // An adapter of the first layer of an emulator of the small model.
  const heddle::model::ModelSpec whole = heddle::fuzz::PartsModel();
  heddle::peft::Adapter tuned;
  tuned.config.r = 1;
  tuned.config.target_modules = {"q_proj"};
  tuned.config.layers_to_transform = {0};
  const auto spec = heddle::peft::AdapterSpec(whole, tuned.config);
  Require(spec.ok(), "the adapter fits its model");
  for (const auto& [key, tensor] : *spec) {
    std::span<std::byte> zeros;
    tuned.tensors.emplace(key, heddle::Tensor::Allocate(tensor, &zeros));
  }
  const auto plugged = heddle::peft::PlugIn(whole, *emulator, tuned);
  if (!plugged.ok()) return 0;
  Require(plugged->config.layers_to_transform.front() == emulator->layers.front(), "it is of the same layer");
  Require(plugged->tensors.size() == tuned.tensors.size(), "with all of its tensors");
  return 0;
}
