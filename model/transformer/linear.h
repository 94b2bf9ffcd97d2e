// A linear layer on a weight that is trained, or frozen and shared, and that may carry LoRA factors (Hu et al.,
// 2106.09685): y = x W^T (+ b) + scaling * (dropout(x) A^T) B^T. It computes in the type of x; a weight kept in another
// type is converted for the product and, if it is frozen, again for the gradient, so that no copy outlives its use.
//
// One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/torch.h>

#include <memory>

#include "model/config/model_spec.h"
#include "model/weights/frozen_weight.h"

namespace heddle::model {

struct LinearImpl : torch::nn::Module {
  // A dense weight as `spec` stores it; `bias` may be undefined. Both become parameters; `trainable` false freezes
  // them.
  LinearImpl(const LinearSpec& spec, torch::Tensor weight, torch::Tensor bias, bool trainable);
  // A frozen weight that is not dense.
  LinearImpl(const LinearSpec& spec, std::shared_ptr<const FrozenWeight> packed, torch::Tensor bias);

  const int64_t in, out;
  const bool transposed;                       // the weight is [in, out]
  torch::Tensor weight, bias;                  // weight undefined when packed
  std::shared_ptr<const FrozenWeight> packed;  // null when dense
  torch::Tensor lora_A, lora_B;                // float32 [r, in], [out, r]; undefined without LoRA
  double scaling = 0, dropout = 0;             // dropout acts in training mode only
  at::Generator dropout_generator;             // undefined: the process's default; see TransformerImpl::SeedDropout

  // x: [.., in] of any float type. Returns [.., out] of the same type.
  torch::Tensor forward(const torch::Tensor& x);
  // Where the weight is.
  torch::Device device() const { return packed ? packed->device() : weight.device(); }
  // The weight as [out, in] in `type`; a view where it can be one.
  torch::Tensor Dense(at::ScalarType type) const;

 private:
  torch::Tensor Base(const torch::Tensor& rows) const;
};
TORCH_MODULE(Linear);

}  // namespace heddle::model
