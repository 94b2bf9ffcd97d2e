// The tensors that a zeroth-order task trains, where its moves can reach them. Directions are made on the processor,
// with the same bits on every machine, so the values live in the processor's memory. A network that computes elsewhere
// (a GPU) gets them in one copy before it is asked for a loss; on the processor they are the network's own and nothing
// is copied.
//
// Life cycle: Make once per task, which lets the network's tensors be views of one block on its device; Publish after
// values have been moved and before a loss. The tensors and this object must outlive the spans. One thread at a time.
// Include only from translation units of targets with TORCH; LibTorch's exceptions pass through.
#pragma once

#include <torch/torch.h>

#include <span>
#include <vector>

#include "common/status.h"

namespace heddle::client {

class TrainedTensors {
 public:
  // Leaf tensors, float32 and each in one piece, all on one device. Errors: kInternal when one is not.
  static Result<TrainedTensors> Make(std::vector<torch::Tensor> tensors);

  const std::vector<torch::Tensor>& tensors() const { return tensors_; }  // those that the network reads
  size_t size() const { return tensors_.size(); }
  std::span<float> values(size_t i) { return values_[i]; }
  // Gives the network the values as they are now.
  void Publish();

 private:
  std::vector<torch::Tensor> tensors_;
  std::vector<std::span<float>> values_;
  torch::Tensor here_, there_;  // all of them in a row; undefined on the processor
};

}  // namespace heddle::client
