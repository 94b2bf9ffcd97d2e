// A checkpoint's tensors, loaded once and shared: any number of models may be built on the same weights, which they
// never change.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/weights/frozen_weight.h"

namespace heddle::model {

// Immutable once shared; thread-safe.
struct BaseWeights {
  ModelSpec spec;
  // By the names of spec.WeightSpec(), each either here as it is or, for a matrix of a linear layer, in `packed`.
  std::map<std::string, torch::Tensor> tensors;
  std::map<std::string, std::shared_ptr<const FrozenWeight>> packed;

  // Reads config.json and the safetensors of the folder, checks every name and shape against the config. F16 and BF16
  // are widened to float32; F32 is used in place. Errors: kNotFound, kInvalidArgument with the tensor's name.
  static Result<std::shared_ptr<const BaseWeights>> Load(const std::filesystem::path& folder);
};

}  // namespace heddle::model
