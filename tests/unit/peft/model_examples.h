// What tests of parts of models begin with: every committed architecture, and a batch for it.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"

namespace heddle::peft {

// Every committed model whose head has a loss: all architectures. Below tests/data.
inline std::vector<std::string> ModelFolders() {
  namespace fs = std::filesystem;
  std::vector<std::string> names;
  for (const char* room : {"models", "encoders"}) {
    for (const auto& entry : fs::directory_iterator(fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / room)) {
      if (!fs::exists(entry.path() / "config.json")) continue;
      const auto spec = model::ReadModelConfig(entry.path());
      if (spec.ok() && spec->head.task != model::Task::kNone) {
        names.push_back(std::string(room) + "/" + entry.path().filename().string());
      }
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The name of a test of one of them.
inline std::string NameOfFolder(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

// The model with these weights, without a folder.
inline std::shared_ptr<const model::BaseWeights> Loaded(const model::ModelSpec& spec, const StateDict& weights) {
  auto base = std::make_shared<model::BaseWeights>();
  base->spec = spec;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    base->tensors.emplace(name, ToTorchTensor(weights.find(name)->second));
  }
  return base;
}

struct Example {
  model::ModelInput input;
  torch::Tensor targets;
};

// Two texts, one shorter than the other, or two images.
inline Example ExampleFor(const model::ModelSpec& spec) {
  Example example;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{11});
  const bool words = spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm;
  if (spec.TakesImages()) {
    const model::PatchSpec& p = spec.patches;
    example.input.pixels = torch::randn({2, p.channels, p.image_size, p.image_size}, generator);
  } else {
    const int64_t length = std::min<int64_t>(7, spec.MaxLength());
    example.input.ids = torch::randint(3, spec.vocab_size, {2, length}, generator, at::kLong);
    example.input.mask = torch::ones({2, length}, at::kLong);
    example.input.mask[1].slice(0, length - 2) = 0;
    if (words) example.targets = example.input.ids.roll(-1, 1).masked_fill(example.input.mask.eq(0), -100);
  }
  if (!words) example.targets = spec.num_labels == 1 ? torch::tensor({0.25F, -1.5F}) : torch::tensor({0, 1}, at::kLong);
  return example;
}

}  // namespace heddle::peft
