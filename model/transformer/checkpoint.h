// Activation checkpointing: a function's inner values are thrown away after the forward pass and computed again in the
// backward pass (Chen et al., 1604.06174). Thread-safe (no state).
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

namespace heddle::model {

// function(x), keeping only x. The function may use parameters that need gradients; theirs are added up as backward()
// does. It runs again with the states that `generators` (which must be defined) have now, and must give the same then.
torch::Tensor Checkpoint(std::function<torch::Tensor(const torch::Tensor&)> function, const torch::Tensor& x,
                         const std::vector<at::Generator>& generators);

}  // namespace heddle::model
