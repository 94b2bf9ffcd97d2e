// The derivative of a loss along a direction by forward-mode differentiation (Baydin et al., 2202.08587): one forward
// pass that carries a tangent beside each value, no backward pass, no error of a difference, about twice the time and
// activations of a plain one.
//
// LibTorch 1.13 differentiates so on one level of a process: calls from several threads wait for each other.
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

#include "zo_optim/estimator/estimator.h"

namespace heddle::zo {

// `parameters` are leaf tensors that `loss` reads, `tangents` of the same shapes and types the direction. `loss`
// returns a scalar, and runs without gradients. Errors: kUnimplemented when an operator on the way has no forward-mode
// formula, with its name; other exceptions of LibTorch pass through.
Result<Objective::Derivative> DirectionalDerivative(const std::vector<torch::Tensor>& parameters,
                                                    const std::vector<torch::Tensor>& tangents,
                                                    const std::function<torch::Tensor()>& loss);

}  // namespace heddle::zo
