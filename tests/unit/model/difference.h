// How far two tensors are from each other, for tests. Include only from translation units of targets with TORCH.
#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

namespace heddle::model {

// The largest difference of two elements, in float64; of other shapes the test fails.
inline double MaxDifference(const torch::Tensor& a, const torch::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

}  // namespace heddle::model
