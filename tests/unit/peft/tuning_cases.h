// The committed cases of tests/data/tuning: adapters on tiny models and what these then compute, by independent float64
// code (make_tuning.py there).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/transformer/transformer.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/model/reference_case.h"

namespace heddle::peft {

class TuningCase {
 public:
  static std::filesystem::path Data() { return std::filesystem::path(HEDDLE_SOURCE_DIR) / "tests" / "data"; }
  static std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(Data() / "tuning")) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  explicit TuningCase(const std::string& name, model::WeightType type = model::WeightType::kFloat32,
                      const torch::Device& device = torch::kCPU)
      : folder(Data() / "tuning" / name),
        adapter(*ReadAdapter(folder)),
        arrays_(ReadSafetensors(folder / "expected.safetensors")->tensors) {
    const auto text = *ReadFile(folder / "case.json", 4096);
    base_folder = Data() / std::string(boost::json::parse(text).at("base").as_string());
    base = *model::BaseWeights::Load(base_folder, {type, device});
  }

  torch::Tensor Array(const std::string& name) const {
    const auto found = arrays_.find(name);
    return found == arrays_.end() ? torch::Tensor() : model::FixtureTensor(found->second);
  }
  model::ModelInput Input() const {
    model::ModelInput input;
    input.ids = Array("ids");
    input.mask = Array("mask");
    input.types = Array("types");
    input.segments = Array("segments");
    input.pixels = Array("pixels");
    return input;
  }
  // Of every row that is a token; padding is computed, but means nothing.
  double Difference(const torch::Tensor& logits, const torch::Tensor& expected) const {
    const torch::Tensor apart = (logits.detach().to(at::kDouble) - expected.to(at::kDouble)).abs();
    const torch::Tensor mask = Array("mask");
    if (!mask.defined() || apart.dim() < 3) return apart.max().item<double>();
    return (apart * mask.unsqueeze(2)).max().item<double>();
  }
  double Difference(const torch::Tensor& logits) const { return Difference(logits, Array("logits")); }
  // Targets that every head takes: next words, classes.
  torch::Tensor Targets() const {
    const torch::Tensor logits = Array("logits");
    const int64_t classes = logits.size(-1);
    torch::Tensor targets = torch::arange(logits.numel() / classes, at::kLong).remainder(classes);
    targets = targets.view(logits.sizes().slice(0, static_cast<size_t>(logits.dim() - 1)));
    const torch::Tensor mask = Array("mask");
    if (mask.defined() && targets.dim() == 2) targets = targets.masked_fill(mask.eq(0), -100);
    return targets;
  }
  bool Merges() const {
    return adapter.config.kind() != TuningKind::kBottleneck && !IsPromptLearning(adapter.config.kind());
  }

  std::filesystem::path folder, base_folder;
  Adapter adapter;
  std::shared_ptr<const model::BaseWeights> base;

 private:
  StateDict arrays_;
};

}  // namespace heddle::peft
