// LoRA factors of several adapters side by side in one pass: each for its own rows of what a linear layer reads, so
// that a batch may hold rows of different adapters on one base, and each has gradients of its own.
//
// Life cycle: make a scope, add each adapter in the order of its rows, run the forward pass; the backward pass may come
// after the scope. A scope counts on its own thread only; one at a time (asserted). Include only from translation units
// of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "model/transformer/linear.h"

namespace heddle::model {

struct RowFactors {
  int64_t rows = 0;    // of x as [rows, in]
  torch::Tensor A, B;  // float32 [r, in], [out, r]
  double scaling = 1, dropout = 0;
  at::Generator generator;  // of dropout, in training mode; undefined: the process's default
};

class RowFactorsScope {
 public:
  RowFactorsScope();
  ~RowFactorsScope();
  RowFactorsScope(const RowFactorsScope&) = delete;
  RowFactorsScope& operator=(const RowFactorsScope&) = delete;

  // While the scope is, `layer` adds scaling * (dropout(x) A^T) B^T of each of its factors to their rows; together
  // they must be all rows of x (c10::Error). The layer must outlive the scope.
  void Add(const Linear& layer, RowFactors factors);

  // Of the scope of this thread; null when there is none, or none of this layer.
  static const std::vector<RowFactors>* Of(const LinearImpl& layer);

 private:
  std::map<const LinearImpl*, std::vector<RowFactors>> factors_;
};

// What is added to x W^T.
torch::Tensor RowProducts(const std::vector<RowFactors>& factors, const torch::Tensor& rows, bool training);

}  // namespace heddle::model
