#include "model/transformer/functions.h"

#include <ATen/Parallel.h>

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

Tensor Widened(const Tensor& x) { return IsReduced(x.scalar_type()) ? x.to(at::kFloat) : x; }

struct RmsNormFunction : Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& weight_in, double eps) {
    const Tensor x = Widened(x_in), weight = weight_in.to(x.scalar_type());
    Tensor inverse = at::mul(x, x).mean(-1, true).add_(eps).rsqrt_();
    Tensor y = at::mul(x, inverse).mul_(weight);
    ctx->save_for_backward({x_in, weight_in, inverse});
    return y.to(x_in.scalar_type());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor x = Widened(saved[0]), weight = saved[1].to(x.scalar_type()), grad = Widened(grads[0]);
    const Tensor& inverse = saved[2];
    Tensor normal = at::mul(x, inverse);
    Tensor grad_weight;
    if (ctx->needs_input_grad(1)) {
      grad_weight = at::mul(grad, normal).reshape({-1, weight.size(0)}).sum(0).to(saved[1].scalar_type());
    }
    Tensor grad_x;
    if (ctx->needs_input_grad(0)) {
      Tensor scaled = at::mul(grad, weight);
      Tensor projection = at::mul(scaled, normal).mean(-1, true);
      grad_x = scaled.sub_(normal.mul_(projection)).mul_(inverse).to(saved[0].scalar_type());
    }
    return {grad_x, grad_weight, Tensor()};
  }
};

// One pass: rotation, scale and the change of layout. `back` rotates back, from heads layout to rows. `per_row`: the
// tables have a line for every row of every sequence.
void Rotate(const float* in, float* out, const float* cos, const float* sin, bool per_row, int64_t half, int64_t batch,
            int64_t length, int64_t heads, int64_t head_dim, float scale, bool back) {
  at::parallel_for(0, batch * length, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / length, t = row % length, line = per_row ? row : t;
      const float *c = cos + line * half, *s = sin + line * half;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t in_rows = (row * heads + h) * head_dim, in_heads = ((b * heads + h) * length + t) * head_dim;
        const float* __restrict from = in + (back ? in_heads : in_rows);
        float* __restrict to = out + (back ? in_rows : in_heads);
        const float sign = back ? -scale : scale;
        for (int64_t i = 0; i < half; ++i) {
          const float x = from[i], y = from[i + half];
          to[i] = scale * (x * c[i]) - sign * (y * s[i]);
          to[i + half] = scale * (y * c[i]) + sign * (x * s[i]);
        }
        for (int64_t i = 2 * half; i < head_dim; ++i) to[i] = scale * from[i];
      }
    }
  });
}

bool HasLoops(const Tensor& x) { return x.scalar_type() == at::kFloat && x.device().is_cpu(); }

// The same by LibTorch's operators, on [batch, heads, length, head_dim].
Tensor RotateGeneral(const Tensor& x, const Tensor& cos_in, const Tensor& sin_in, double scale, bool back) {
  const int64_t half = cos_in.size(-1), length = x.size(2);
  const auto table = [length](const Tensor& t) {  // to [1 or batch, 1, length, half]
    return t.dim() == 3 ? t.unsqueeze(1) : t.slice(0, 0, length).unsqueeze(0).unsqueeze(0);
  };
  const Tensor wide = Widened(x), cos = table(cos_in), sin = back ? -table(sin_in) : table(sin_in);
  const Tensor a = wide.slice(-1, 0, half), b = wide.slice(-1, half, 2 * half);
  const Tensor turned = at::cat({a * cos - b * sin, b * cos + a * sin, wide.slice(-1, 2 * half)}, -1);
  return (turned * scale).to(x.scalar_type());
}

struct RotateFunction : Function<RotateFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& cos, const Tensor& sin, int64_t heads,
                        double scale) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["scale"] = scale;
    const int64_t batch = x_in.size(0), length = x_in.size(1), head_dim = x_in.size(2) / heads;
    if (!HasLoops(x_in)) {
      const Tensor x = x_in.reshape({batch, length, heads, head_dim}).transpose(1, 2);
      return RotateGeneral(x, cos, sin, scale, false).contiguous();
    }
    const Tensor x = x_in.contiguous();
    Tensor out = at::empty({batch, heads, length, head_dim}, x.options());
    Rotate(x.data_ptr<float>(), out.data_ptr<float>(), cos.data_ptr<float>(), sin.data_ptr<float>(), cos.dim() == 3,
           cos.size(-1), batch, length, heads, head_dim, static_cast<float>(scale), false);
    return out;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const double scale = ctx->saved_data["scale"].toDouble();
    const Tensor &cos = saved[0], &sin = saved[1];
    const Tensor grad = grads[0].contiguous();
    const int64_t batch = grad.size(0), heads = grad.size(1), length = grad.size(2), head_dim = grad.size(3);
    if (!HasLoops(grad)) {
      const Tensor out = RotateGeneral(grad, cos, sin, scale, true);
      return {out.transpose(1, 2).reshape({batch, length, heads * head_dim}), Tensor(), Tensor(), Tensor(), Tensor()};
    }
    Tensor out = at::empty({batch, length, heads * head_dim}, grad.options());
    Rotate(grad.data_ptr<float>(), out.data_ptr<float>(), cos.data_ptr<float>(), sin.data_ptr<float>(), cos.dim() == 3,
           cos.size(-1), batch, length, heads, head_dim, static_cast<float>(scale), true);
    return {out, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

struct SwiGluFunction : Function<SwiGluFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    Tensor grad_up = at::silu(gate).mul_(grads[0]);
    Tensor grad_gate = at::silu_backward(at::mul(grads[0], up), gate);
    return {grad_gate, grad_up};
  }
};

}  // namespace

Tensor RmsNorm(const Tensor& x, const Tensor& weight, double eps) {
  if (!HasTangent(x, weight)) return RmsNormFunction::apply(x, weight, eps);
  const Tensor wide = Widened(x);
  return (wide * (wide * wide).mean(-1, true).add(eps).rsqrt() * weight.to(wide.scalar_type())).to(x.scalar_type());
}

Tensor LayerNorm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const auto type = x.scalar_type();
  const auto as_x = [type](const Tensor& t) { return t.defined() ? t.to(type) : t; };
  return at::layer_norm(x, {x.size(-1)}, as_x(weight), as_x(bias), eps);
}

Tensor RotateHeads(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t heads, double scale) {
  if (HasTangent(x)) {
    const Tensor by_head = x.reshape({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
    return RotateGeneral(by_head, cos, sin, scale, false);
  }
  return RotateFunction::apply(x, cos.contiguous(), sin.contiguous(), heads, scale);
}

Tensor SwiGlu(const Tensor& gate, const Tensor& up) {
  return HasTangent(gate, up) ? at::silu(gate) * up : SwiGluFunction::apply(gate, up);
}

Tensor Activate(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kQuickGelu:  // Hendrycks and Gimpel, 1606.08415
      return x * at::sigmoid(x * 1.702);
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kTanh:
      return at::tanh(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace heddle::model
