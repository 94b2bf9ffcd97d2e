// A linear layer on a weight that is trained, or frozen and shared, and that may carry what tuning methods add:
//   LoRA (Hu et al., 2106.09685)      y = x W^T + b + scaling * (dropout(x) A^T) B^T
//   DoRA (Liu et al., 2402.09353)     y = b + m / |W + scaling B A| * (x W^T + scaling * (x A^T) B^T), norms of the
//   rows (IA)^3 (Liu et al., 2205.05638)   y = scale_out * (.. of scale_in * x)
// W is the stored weight plus the factors that were folded into it (LowRank::of_base) and the values of sparse training
// (SparseWeight). It computes in the type of x; a
// weight kept in another type is converted for the product and, if it is frozen, again for the gradient, so that no
// copy outlives its use.
//
// One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <memory>
#include <utility>
#include <vector>

#include "model/config/model_spec.h"
#include "model/transformer/sparse_product.h"
#include "model/weights/frozen_weight.h"

namespace heddle::model {

// Frozen factors beside the ones that are trained; float32.
struct LowRank {
  torch::Tensor A, B;       // [r, in], [out, r]
  torch::Tensor magnitude;  // [out], of DoRA; else undefined
  double scaling = 1;
  bool of_base = false;  // part of W itself; never with a magnitude
};

struct LinearImpl : torch::nn::Module {
  // A dense weight as `spec` stores it; `bias` may be undefined. Both become parameters; `trainable` false freezes
  // them.
  LinearImpl(const LinearSpec& spec, torch::Tensor weight, torch::Tensor bias, bool trainable);
  // A frozen weight that is not dense.
  LinearImpl(const LinearSpec& spec, std::shared_ptr<const FrozenWeight> packed, torch::Tensor bias);

  const int64_t in, out;
  const bool transposed;                           // the weight is [in, out]
  torch::Tensor weight, bias;                      // weight undefined when packed
  std::shared_ptr<const FrozenWeight> packed;      // null when dense
  torch::Tensor lora_A, lora_B;                    // float32 [r, in], [out, r]; undefined without LoRA
  torch::Tensor magnitude;                         // float32 [out], of DoRA; else undefined
  double scaling = 0, dropout = 0;                 // dropout acts in training mode only
  std::vector<LowRank> stacked;                    // frozen factors
  std::vector<SparseWeight> sparse;                // parts of W; at most one is trained
  std::vector<torch::Tensor> scale_in, scale_out;  // float32, [1, in] and [out, 1]
  torch::Tensor merged_weight, merged_bias;        // when defined, these alone count: see Merge
  at::Generator dropout_generator;                 // undefined: the process's default; see TransformerImpl::SeedDropout

  // x: [.., in] of any float type. Returns [.., out] of the same type.
  torch::Tensor forward(const torch::Tensor& x);
  // Where the weight is.
  torch::Device device() const { return packed ? packed->device() : weight.device(); }
  // The stored weight as [out, in] in `type`; a view where it can be one.
  torch::Tensor Dense(at::ScalarType type) const;
  // Whether anything but the stored weight and bias counts.
  bool adapted() const;
  // Computes from now on with one weight that equals all that was added (dropout apart), in float32 or, where the
  // weight is kept in less, in bfloat16, beside the stored one, which stays as it is; Unmerge goes back to it.
  void Merge();
  void Unmerge() { merged_weight = merged_bias = torch::Tensor(); }
  // What Merge computes with, float32, without gradient: [out, in], and [out] or undefined.
  std::pair<torch::Tensor, torch::Tensor> Merged() const;

 private:
  // x W^T of the stored weight, with the bias or without.
  torch::Tensor Base(const torch::Tensor& rows, bool with_bias) const;
  torch::Tensor Dropped(const torch::Tensor& rows);
  // The part of DoRA factors beside `plain`, which is x W^T without bias of the rows that they read.
  torch::Tensor Directed(const LowRank& factors, const torch::Tensor& rows, const torch::Tensor& plain) const;
  torch::Tensor Adapted(torch::Tensor rows);
};
TORCH_MODULE(Linear);

}  // namespace heddle::model
