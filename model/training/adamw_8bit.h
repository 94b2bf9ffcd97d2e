// AdamW whose two moments are kept in 8 bits (Dettmers et al., 2110.02861): blocks of 256 with a float32 scale each,
// values of the dynamic data type (quant/codes.h), the second moment without a sign. A step unpacks a block, updates it
// in float32 and packs it again; the parameters stay in full precision. Memory: 2.03 instead of 8 bytes a parameter.
//
// Blocks of 256 and not the paper's 2048: adapters' tensors are small, and one large moment coarsens fewer others; it
// costs 0.03 byte a parameter.
//
// A second moment that is not zero is never stored as zero, but as the smallest value at least: next to a first moment
// that is still there, a denominator of epsilon alone would make a step without measure.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include "model/training/optimizer.h"

namespace heddle::model {

class AdamW8bit final : public Optimizer {
 public:
  static constexpr int64_t kBlock = 256;
  AdamW8bit(std::vector<torch::Tensor> parameters, const OptimizerOptions& options);
  uint64_t StateBytes() const override;

 private:
  // A moment of one parameter: scales are its blocks' largest magnitudes.
  struct Moment {
    torch::Tensor codes;   // uint8, padded to whole blocks; on the parameter's device
    torch::Tensor scales;  // float32, one a block
  };
  struct Rates;
  std::vector<torch::Tensor> Moments() const override;
  void Update(size_t k, const torch::Tensor& gradient, double clip, double learning_rate) override;
  void UpdatePlain(size_t k, const torch::Tensor& gradient, const Rates& rates);
  void UpdateByOperators(size_t k, const torch::Tensor& gradient, const Rates& rates);

  std::vector<Moment> m_, v_;
};

}  // namespace heddle::model
