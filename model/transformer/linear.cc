#include "model/transformer/linear.h"

#include "model/transformer/functions.h"
#include "model/transformer/row_factors.h"

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// A dense frozen weight of another type than is computed in.
class ConvertedWeight final : public FrozenWeight {
 public:
  explicit ConvertedWeight(Tensor weight) : weight_(std::move(weight)) {}
  int64_t rows() const override { return weight_.size(0); }
  int64_t columns() const override { return weight_.size(1); }
  Tensor Dense(at::ScalarType type) const override { return weight_.detach().to(type); }
  torch::Device device() const override { return weight_.device(); }
  uint64_t bytes() const override { return weight_.nbytes(); }

 private:
  Tensor weight_;
};

// Lets autograd keep the weight itself until the backward pass, instead of a dense copy.
struct Holder : torch::CustomClassHolder {
  explicit Holder(std::shared_ptr<const FrozenWeight> held) : weight(std::move(held)) {}
  std::shared_ptr<const FrozenWeight> weight;
};

struct FrozenProduct : Function<FrozenProduct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& rows, const std::shared_ptr<const FrozenWeight>& weight,
                        const c10::optional<Tensor>& bias, bool transposed) {
    ctx->saved_data["weight"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(weight));
    ctx->saved_data["transposed"] = transposed;
    const Tensor dense = weight->Dense(rows.scalar_type());
    const Tensor by = transposed ? dense : dense.t();
    return bias ? at::addmm(bias->to(rows.scalar_type()), rows, by) : at::mm(rows, by);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto holder = ctx->saved_data["weight"].toCapsule();
    const Tensor dense = static_cast<const Holder&>(*holder).weight->Dense(grads[0].scalar_type());
    const Tensor grad = at::mm(grads[0], ctx->saved_data["transposed"].toBool() ? dense.t() : dense);
    return {grad, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

LinearImpl::LinearImpl(const LinearSpec& spec, Tensor weight_in, Tensor bias_in, bool trainable)
    : in(spec.in), out(spec.out), transposed(spec.transposed) {
  weight = register_parameter("weight", std::move(weight_in), trainable);
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), trainable);
}

LinearImpl::LinearImpl(const LinearSpec& spec, std::shared_ptr<const FrozenWeight> packed_in, Tensor bias_in)
    : in(spec.in), out(spec.out), transposed(spec.transposed), packed(std::move(packed_in)) {
  if (bias_in.defined()) bias = register_parameter("bias", std::move(bias_in), false);
}

Tensor LinearImpl::Base(const Tensor& rows, bool with_bias) const {
  const auto type = rows.scalar_type();
  const Tensor b = with_bias && bias.defined() ? bias.to(type) : Tensor();
  std::shared_ptr<const FrozenWeight> frozen = packed;
  if (!frozen && weight.scalar_type() != type && !weight.requires_grad()) {
    frozen = std::make_shared<ConvertedWeight>(weight);
  }
  if (frozen && HasTangent(rows, b)) {
    const Tensor dense = frozen->Dense(type), y = at::mm(rows, transposed ? dense : dense.t());
    return b.defined() ? y + b : y;
  }
  if (frozen && b.defined() && b.requires_grad()) {
    return FrozenProduct::apply(rows, frozen, c10::nullopt, transposed) + b;
  }
  if (frozen) {
    return FrozenProduct::apply(rows, frozen, b.defined() ? c10::make_optional(b) : c10::nullopt, transposed);
  }
  const Tensor w = weight.to(type);
  if (!transposed) return at::linear(rows, w, b);
  return b.defined() ? at::addmm(b, rows, w) : at::mm(rows, w);
}

Tensor LinearImpl::Dropped(const Tensor& rows) {
  if (dropout <= 0 || !is_training()) return rows;
  Tensor keep = at::empty_like(rows, at::TensorOptions().requires_grad(false));
  keep.bernoulli_(1.0 - dropout, dropout_generator.defined() ? c10::make_optional(dropout_generator) : c10::nullopt);
  return rows * keep.div_(1.0 - dropout);
}

Tensor LinearImpl::Directed(const LowRank& factors, const Tensor& rows, const Tensor& plain) const {
  Tensor norm;
  {
    // The norm counts as a constant in the gradient (section 4.3 of the paper).
    const at::NoGradGuard no_grad;
    Tensor whole = Dense(factors.A.scalar_type());
    for (const LowRank& part : stacked) {
      if (part.of_base) whole = at::addmm(whole, part.B, part.A, 1, part.scaling);
    }
    if (!sparse.empty()) whole = whole.clone(at::MemoryFormat::Contiguous);
    for (const SparseWeight& part : sparse) AddTo(part, &whole);
    norm = at::addmm(whole, factors.B, factors.A, 1, factors.scaling).norm(2, 1);
  }
  const auto type = rows.scalar_type();
  const Tensor turn = factors.magnitude / norm;
  const Tensor low = at::mm(at::mm(rows, factors.A.to(type).t()), factors.B.to(type).t());
  return plain * (turn - 1).to(type) + low * (turn * factors.scaling).to(type);
}

Tensor LinearImpl::Adapted(Tensor rows) {
  const auto type = rows.scalar_type();
  for (const Tensor& scale : scale_in) rows = rows * scale.to(type).view({1, in});
  Tensor y = Base(rows, true);
  const auto add = [&](const Tensor& x, const Tensor& a, const Tensor& b, double scale) {
    y.addmm_(at::mm(x, a.to(type).t()), b.to(type).t(), 1, scale);  // no one else has seen y
  };
  for (const LowRank& part : stacked) {
    if (part.of_base) add(rows, part.A, part.B, part.scaling);
  }
  for (const SparseWeight& part : sparse) y = y + SparseProduct(rows, part, out);
  bool directed = magnitude.defined();
  for (const LowRank& part : stacked) directed = directed || part.magnitude.defined();
  const Tensor plain = !directed ? Tensor() : bias.defined() ? y - bias.to(type) : y.clone();
  for (const LowRank& part : stacked) {
    if (part.of_base) continue;
    if (part.magnitude.defined()) {
      y = y + Directed(part, rows, plain);
    } else {
      add(rows, part.A, part.B, part.scaling);
    }
  }
  if (lora_A.defined()) {
    const Tensor input = Dropped(rows);
    if (!magnitude.defined()) {
      add(input, lora_A, lora_B, scaling);
    } else {
      Tensor of_input = plain;
      if (!input.is_same(rows)) {
        of_input = Base(input, false);
        for (const LowRank& part : stacked) {
          if (part.of_base) of_input.addmm_(at::mm(input, part.A.to(type).t()), part.B.to(type).t(), 1, part.scaling);
        }
        for (const SparseWeight& part : sparse) of_input = of_input + SparseProduct(input, part, out);
      }
      y = y + Directed({lora_A, lora_B, magnitude, scaling}, input, of_input);
    }
  }
  if (const auto* factors = RowFactorsScope::Of(*this)) y.add_(RowProducts(*factors, rows, is_training()));
  for (const Tensor& scale : scale_out) y = y * scale.to(type).view({1, out});
  return y;
}

Tensor LinearImpl::forward(const Tensor& x) {
  const Tensor rows = x.reshape({-1, x.size(-1)});
  Tensor y;
  if (merged_weight.defined()) {
    const auto type = rows.scalar_type();
    y = at::linear(rows, merged_weight.to(type), merged_bias.defined() ? merged_bias.to(type) : merged_bias);
  } else {
    y = Adapted(rows);
  }
  auto shape = x.sizes().vec();
  shape.back() = out;
  return y.view(shape);
}

Tensor LinearImpl::Dense(at::ScalarType type) const {
  const Tensor dense = packed ? packed->Dense(type) : weight.to(type);
  return transposed ? dense.t() : dense;
}

bool LinearImpl::adapted() const {
  return lora_A.defined() || !stacked.empty() || !sparse.empty() || !scale_in.empty() || !scale_out.empty() ||
         merged_weight.defined();
}

std::pair<Tensor, Tensor> LinearImpl::Merged() const {
  const at::NoGradGuard no_grad;
  const auto wide = [](const Tensor& t) { return t.to(at::kDouble); };
  Tensor base = Dense(at::kFloat).to(at::kDouble);
  for (const LowRank& part : stacked) {
    if (part.of_base) base = at::addmm(base, wide(part.B), wide(part.A), 1, part.scaling);
  }
  if (!sparse.empty()) base = base.clone(at::MemoryFormat::Contiguous);
  for (const SparseWeight& part : sparse) AddTo(part, &base);
  Tensor whole = base;
  const auto add = [&](const LowRank& part) {
    const Tensor change = part.scaling * at::mm(wide(part.B), wide(part.A));
    if (!part.magnitude.defined()) {
      whole = whole + change;
    } else {
      const Tensor sum = base + change;
      whole = whole + sum * (wide(part.magnitude) / sum.norm(2, 1)).unsqueeze(1) - base;
    }
  };
  for (const LowRank& part : stacked) {
    if (!part.of_base) add(part);
  }
  if (lora_A.defined()) add({lora_A, lora_B, magnitude, scaling});
  Tensor offset = bias.defined() ? wide(bias) : bias;
  for (const Tensor& scale : scale_in) whole = whole * wide(scale).view({1, in});
  for (const Tensor& scale : scale_out) {
    whole = whole * wide(scale).view({out, 1});
    if (offset.defined()) offset = offset * wide(scale).view({out});
  }
  return {whole.to(at::kFloat).contiguous(), offset.defined() ? offset.to(at::kFloat) : offset};
}

void LinearImpl::Merge() {
  if (merged_weight.defined() || !adapted()) return;
  auto [whole, offset] = Merged();
  const bool narrow = !packed && weight.scalar_type() == at::kBFloat16;
  merged_weight = narrow ? whole.to(at::kBFloat16) : whole;
  merged_bias = offset;
}

}  // namespace heddle::model
