#include "client/worker/trained_tensors.h"

#include <utility>

namespace heddle::client {

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

}  // namespace heddle::client
