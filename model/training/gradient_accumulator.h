// Gradients of several micro-batches as if they had been one batch. A micro-batch's loss is a mean over the targets
// that count in it; the big batch's is the mean over all of them, so micro-batches weigh as many targets as they have:
// with padding or completions of different lengths, equal weights would be wrong.
//
// Life cycle: Add once a micro-batch, Finish before the optimizer's step, then from the start. One thread at a time.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace heddle::model {

class GradientAccumulator {
 public:
  // Of these parameters the gradients are scaled. `micro_batches` >= 1 are to come before each Finish; with 1, Add is
  // backward() and nothing else, to the bit.
  GradientAccumulator(std::vector<torch::Tensor> parameters, uint32_t micro_batches);

  // `mean_loss`: a scalar with a graph; `counted`: the targets it is the mean of (0: it adds nothing, its graph is not
  // used). Runs the backward pass.
  void Add(const torch::Tensor& mean_loss, int64_t counted);

  struct Total {
    double loss = 0;      // mean over all targets that counted; 0 when none did
    int64_t counted = 0;  // targets
  };
  // Leaves in the parameters the gradient of the mean over all targets since the last Finish.
  Total Finish();

 private:
  std::vector<torch::Tensor> parameters_;
  uint32_t micro_batches_;
  double loss_ = 0;  // with several micro-batches: the sum over the targets so far
  int64_t counted_ = 0;
};

}  // namespace heddle::model
