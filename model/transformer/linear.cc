#include "model/transformer/linear.h"

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

Tensor LinearImpl::Base(const Tensor& rows) const {
  const auto type = rows.scalar_type();
  const auto frozen_bias = bias.defined() ? c10::make_optional(bias) : c10::nullopt;
  if (packed) return FrozenProduct::apply(rows, packed, frozen_bias, transposed);
  if (weight.scalar_type() != type && !weight.requires_grad()) {
    const std::shared_ptr<const FrozenWeight> converted = std::make_shared<ConvertedWeight>(weight);
    return FrozenProduct::apply(rows, converted, frozen_bias, transposed);
  }
  const Tensor w = weight.to(type), b = bias.defined() ? bias.to(type) : bias;
  if (!transposed) return at::linear(rows, w, b);
  return b.defined() ? at::addmm(b, rows, w) : at::mm(rows, w);
}

Tensor LinearImpl::forward(const Tensor& x) {
  const Tensor rows = x.reshape({-1, x.size(-1)});
  Tensor y = Base(rows);
  if (lora_A.defined()) {
    Tensor input = rows;
    if (dropout > 0 && is_training()) {
      Tensor keep = at::empty_like(rows, at::TensorOptions().requires_grad(false));
      keep.bernoulli_(1.0 - dropout,
                      dropout_generator.defined() ? c10::make_optional(dropout_generator) : c10::nullopt);
      input = rows * keep.div_(1.0 - dropout);
    }
    const auto type = rows.scalar_type();
    y.addmm_(at::mm(input, lora_A.to(type).t()), lora_B.to(type).t(), 1, scaling);  // no one else has seen y
  }
  auto shape = x.sizes().vec();
  shape.back() = out;
  return y.view(shape);
}

Tensor LinearImpl::Dense(at::ScalarType type) const {
  const Tensor dense = packed ? packed->Dense(type) : weight.to(type);
  return transposed ? dense.t() : dense;
}

}  // namespace heddle::model
