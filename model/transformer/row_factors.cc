#include "model/transformer/row_factors.h"

#include "common/assert.h"

namespace heddle::model {

using torch::Tensor;

namespace {

thread_local RowFactorsScope* current = nullptr;

}  // namespace

RowFactorsScope::RowFactorsScope() {
  HEDDLE_ASSERT(current == nullptr, "one scope at a time");
  current = this;
}

RowFactorsScope::~RowFactorsScope() { current = nullptr; }

void RowFactorsScope::Add(const Linear& layer, RowFactors factors) {
  factors_[layer.ptr().get()].push_back(std::move(factors));
}

const std::vector<RowFactors>* RowFactorsScope::Of(const LinearImpl& layer) {
  if (current == nullptr) return nullptr;
  const auto found = current->factors_.find(&layer);
  return found == current->factors_.end() ? nullptr : &found->second;
}

Tensor RowProducts(const std::vector<RowFactors>& factors, const Tensor& rows, bool training) {
  std::vector<int64_t> sizes;
  for (const RowFactors& one : factors) sizes.push_back(one.rows);
  std::vector<Tensor> parts = at::split_with_sizes(rows, sizes);  // checks that they are all of x
  for (size_t i = 0; i < parts.size(); ++i) {
    const RowFactors& one = factors[i];
    Tensor x = parts[i];
    if (training && one.dropout > 0) {
      Tensor keep = at::empty_like(x, at::TensorOptions().requires_grad(false));
      keep.bernoulli_(1.0 - one.dropout, one.generator.defined() ? c10::make_optional(one.generator) : c10::nullopt);
      x = x * keep.div_(1.0 - one.dropout);
    }
    parts[i] = at::mm(at::mm(x, one.A.to(x.scalar_type()).t()) * one.scaling, one.B.to(x.scalar_type()).t());
  }
  return at::cat(parts);
}

}  // namespace heddle::model
