// The committed cases of tests/data/models: tiny checkpoints and what they compute, by independent float64 code
// (make_reference.py there).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/safetensors.h"
#include "model/transformer/transformer.h"
#include "tests/unit/model/case_folders.h"
#include "tests/unit/model/difference.h"

namespace heddle::model {

// A fixture's tensor (F32, F64, I64) as one of LibTorch's, copied.
inline torch::Tensor FixtureTensor(const Tensor& tensor) {
  const auto type = tensor.dtype() == DType::kI64   ? at::kLong
                    : tensor.dtype() == DType::kF64 ? at::kDouble
                                                    : at::kFloat;
  return torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), type).clone();
}

class ReferenceCase {
 public:
  static std::filesystem::path Root() { return CaseRoot("models"); }
  static std::vector<std::string> Names() { return CaseNames("models"); }

  explicit ReferenceCase(const std::string& name, const WeightOptions& options = {})
      : base_(*BaseWeights::Load(Root() / name, options)),
        arrays_(ReadSafetensors(Root() / name / "reference.safetensors")->tensors) {}

  const std::shared_ptr<const BaseWeights>& base() const { return base_; }
  bool Has(const std::string& name) const { return arrays_.contains(name); }
  torch::Tensor Array(const std::string& name) const { return FixtureTensor(arrays_.find(name)->second); }
  ModelInput Input() const { return {.ids = Array("ids"), .mask = Array("mask")}; }

  // Puts the stored LoRA factors into a model, as leaves of this type.
  void Inject(Transformer& model, at::ScalarType type, double scale = 2.0) const {
    for (auto& [path, linear] : model->LinearModules()) {
      if (!Has("lora_A:" + path)) continue;
      const auto form = at::TensorOptions(type).device(linear->device());
      linear->lora_A = Array("lora_A:" + path).to(form).requires_grad_(true);
      linear->lora_B = Array("lora_B:" + path).to(form).requires_grad_(true);
      linear->scaling = scale;
    }
  }

 private:
  std::shared_ptr<const BaseWeights> base_;
  StateDict arrays_;
};

}  // namespace heddle::model
