// A checkpoint's tensors, loaded once and shared: any number of models may be built on the same weights, which they
// never change.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "model/quant/weight_type.h"
#include "model/weights/frozen_weight.h"

namespace heddle::model {

// What computes: "cpu" (also when empty), or "cuda" for the first GPU. Errors: kInvalidArgument; kFailedPrecondition
// when there is no GPU that LibTorch can use.
Result<torch::Device> DeviceFromName(const std::string& name);

// The form in which weights are kept.
struct WeightOptions {
  // kFloat32: all in float32. kBfloat16: matrices and tables; vectors (norms, biases) stay float32, they are few and
  // count. kInt8, kNf4: the matrices of linear layers, but not the head's; tables and the head stay as they are stored
  // if that is bfloat16, else all the rest is float32.
  WeightType type = WeightType::kFloat32;
  torch::Device device = torch::kCPU;
  // Of a model that is cut: only these parameters are loaded. The file is mapped, so the others are never read.
  ModelPart part;
};

// Immutable once shared; thread-safe.
struct BaseWeights {
  ModelSpec spec;
  // By the names of spec.WeightSpec(), each either here as it is or, for a matrix of a linear layer, in `packed`.
  std::map<std::string, torch::Tensor> tensors;
  std::map<std::string, std::shared_ptr<const FrozenWeight>> packed;

  // Parameters of a new head that the folder lacks (ModelSpec::fresh) are zero.
  // Reads config.json and the safetensors of the folder, checks every name and shape against the config. What is stored
  // as it is wanted is used in place in the mapped file, without a copy; the rest is converted tensor by tensor and the
  // file's pages let go, so that loading takes the memory of the result and little more (tensor_loader.h).
  // Errors: kNotFound, kInvalidArgument with the tensor's name; kResourceExhausted.
  static Result<std::shared_ptr<const BaseWeights>> Load(const std::filesystem::path& folder,
                                                         const WeightOptions& options = {});

  uint64_t bytes() const;  // of all tensors in the form in which they are kept
};

}  // namespace heddle::model
