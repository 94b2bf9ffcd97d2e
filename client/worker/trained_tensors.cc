#include "client/worker/trained_tensors.h"

#include <array>
#include <utility>

#include "peft/adapter/prompt_projection.h"

namespace heddle::client {
namespace {

std::span<const float> ValuesOf(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Result<TrainedTensors> TrainedTensors::Make(std::vector<torch::Tensor> tensors) {
  TrainedTensors made;
  int64_t count = 0;
  for (const torch::Tensor& tensor : tensors) {
    if (!tensor.is_contiguous() || tensor.scalar_type() != at::kFloat || tensor.device() != tensors[0].device()) {
      return Internal("what is trained is not float32 in one piece on one device");
    }
    count += tensor.numel();
  }
  made.tensors_ = std::move(tensors);
  if (made.tensors_.empty() || made.tensors_[0].device().is_cpu()) {
    for (const torch::Tensor& tensor : made.tensors_) {
      made.values_.emplace_back(tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel()));
    }
    return made;
  }
  const torch::NoGradGuard no_gradients;
  made.here_ = torch::empty({count}, at::TensorOptions(at::kFloat).pinned_memory(true));
  made.there_ = torch::empty({count}, made.tensors_[0].options().requires_grad(false));
  int64_t first = 0;
  for (torch::Tensor& tensor : made.tensors_) {
    const int64_t length = tensor.numel();
    made.here_.narrow(0, first, length).copy_(tensor.flatten());
    made.values_.emplace_back(made.here_.data_ptr<float>() + first, static_cast<size_t>(length));
    tensor.set_data(made.there_.narrow(0, first, length).view(tensor.sizes()));
    first += length;
  }
  made.Publish();
  return made;
}

void TrainedTensors::Publish() {
  if (!here_.defined()) return;
  const torch::NoGradGuard no_gradients;
  there_.copy_(here_);
}

Result<GeneratedPrompt> GeneratedPrompt::Of(const StateDict& model) {
  GeneratedPrompt made;
  HEDDLE_ASSIGN_OR_RETURN(made.generator_, peft::PromptGenerator::Of(model));
  HEDDLE_ASSIGN_OR_RETURN(made.start_, peft::WithPrompt(model));
  for (const std::string_view key : {peft::kGeneratorInput, peft::kGeneratorBias, peft::kGeneratorOutput}) {
    made.weights_.emplace_back(key, peft::ToTorchTensor(model.find(key)->second));
  }
  return made;
}

Status GeneratedPrompt::Attach(const peft::Tuning& tuning) {
  if (tuning.parameters().size() != 1) {
    return InvalidArgument(
        "a prompt's generator is trained with nothing beside it; remove modules_to_save and new heads");
  }
  prompt_ = tuning.parameters().front().tensor;
  return OkStatus();
}

peft::PromptGenerator::Weights GeneratedPrompt::Values() const {
  return {ValuesOf(weights_[0].second), ValuesOf(weights_[1].second), ValuesOf(weights_[2].second)};
}

void GeneratedPrompt::Publish() {
  const torch::NoGradGuard no_gradients;
  const std::vector<float> values = generator_.Prompt(Values());
  prompt_.copy_(torch::from_blob(const_cast<float*>(values.data()), prompt_.sizes(), at::kFloat));
}

torch::Tensor GeneratedPrompt::Along(const std::vector<torch::Tensor>& moved,
                                     const std::vector<torch::Tensor>& ways) const {
  std::array<torch::Tensor, 3> all;
  for (size_t k = 0; k < all.size(); ++k) {
    all[k] = torch::zeros(weights_[k].second.sizes(), at::kFloat);
    for (size_t i = 0; i < moved.size(); ++i) {
      if (moved[i].is_same(weights_[k].second)) all[k] = ways[i];
    }
  }
  const std::vector<float> values = generator_.Along(Values(), {ValuesOf(all[0]), ValuesOf(all[1]), ValuesOf(all[2])});
  return torch::from_blob(const_cast<float*>(values.data()), prompt_.sizes(), at::kFloat).clone();
}

}  // namespace heddle::client
