#include <torch/torch.h>

#include "common/safetensors.h"
#include "model/llama/llama.h"

namespace heddle::model {
namespace {

at::ScalarType TorchType(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 || dtype == DType::kF64;
}

// F32 bytes are used in place (the deleter keeps their owner alive); other float types are widened to a copy.
torch::Tensor ToTorch(const Tensor& tensor) {
  const auto owner = tensor.owner();
  auto view = torch::from_blob(
      const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), [owner](void*) {},
      at::TensorOptions(TorchType(tensor.dtype())));
  return tensor.dtype() == DType::kF32 ? view : view.to(at::kFloat);
}

// Names that Hugging Face checkpoints may carry and that hold nothing we need.
bool IsRedundant(const std::string& name, const LlamaConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
}

Status CheckAgainstConfig(const StateDict& tensors, const LlamaConfig& config) {
  const StateDictSpec expected = config.WeightSpec();
  for (const auto& [name, spec] : expected) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      return InvalidArgument("the weights lack " + name + ", which config.json asks for");
    }
    const Tensor& tensor = found->second;
    if (tensor.shape() != spec.shape) {
      return InvalidArgument(name + " has shape " + ShapeToString(tensor.shape()) +
                             " in the weights, but config.json asks for " + ShapeToString(spec.shape));
    }
    if (!IsFloat(tensor.dtype())) {
      return InvalidArgument(name + " is " + std::string(DTypeName(tensor.dtype())) +
                             " in the weights, but must be F32, F16, BF16 or F64");
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!expected.contains(name) && !IsRedundant(name, config)) {
      return InvalidArgument("the weights hold " + name + ", which a Llama with this config.json does not have");
    }
  }
  return OkStatus();
}

}  // namespace

Result<std::shared_ptr<const BaseWeights>> BaseWeights::Load(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const LlamaConfig config, LlamaConfig::Read(folder));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadModelSafetensors(folder));
  if (Status status = CheckAgainstConfig(file.tensors, config); !status.ok()) return status.Annotate(folder.string());
  try {
    auto base = std::make_shared<BaseWeights>();
    base->config = config;
    for (const auto& [name, tensor] : file.tensors) {
      if (!IsRedundant(name, config)) base->tensors.emplace(name, ToTorch(tensor));
    }
    return std::shared_ptr<const BaseWeights>(std::move(base));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the weights of " + folder.string());
  } catch (const std::exception& e) {
    return Internal("LibTorch could not take the weights of " + folder.string() + ": " + e.what());
  }
}

}  // namespace heddle::model
