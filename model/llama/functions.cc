#include "model/llama/functions.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

constexpr int64_t kIgnoredTarget = -100;
constexpr int64_t kLogitsPerPiece = int64_t{1} << 19;  // 2 MiB of float: stays in the cache of a core or two

struct RmsNormFunction : Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double eps) {
    Tensor inverse = at::mul(x, x).mean(-1, true).add_(eps).rsqrt_();
    Tensor y = at::mul(x, inverse).mul_(weight);
    ctx->save_for_backward({x, weight, inverse});
    return y;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    Tensor normal = at::mul(x, inverse);
    Tensor grad_weight;
    if (ctx->needs_input_grad(1)) {
      grad_weight = at::mul(grads[0], normal).reshape({-1, weight.size(0)}).sum(0);
    }
    Tensor grad_x;
    if (ctx->needs_input_grad(0)) {
      Tensor scaled = at::mul(grads[0], weight);
      Tensor projection = at::mul(scaled, normal).mean(-1, true);
      grad_x = scaled.sub_(normal.mul_(projection)).mul_(inverse);
    }
    return {grad_x, grad_weight, Tensor()};
  }
};

// One pass: rotation, scale and the change of layout. `direction` -1 rotates back, from heads layout to rows.
void Rotate(const float* in, float* out, const float* cos, const float* sin, int64_t batch, int64_t length,
            int64_t heads, int64_t head_dim, float scale, bool back) {
  const int64_t half = head_dim / 2;
  at::parallel_for(0, batch * length, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / length, t = row % length;
      const float *c = cos + t * half, *s = sin + t * half;
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
      }
    }
  });
}

struct RotateFunction : Function<RotateFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& cos, const Tensor& sin, int64_t heads,
                        double scale) {
    const Tensor x = x_in.contiguous();
    const int64_t batch = x.size(0), length = x.size(1), head_dim = x.size(2) / heads;
    Tensor out = at::empty({batch, heads, length, head_dim}, x.options());
    Rotate(x.data_ptr<float>(), out.data_ptr<float>(), cos.data_ptr<float>(), sin.data_ptr<float>(), batch, length,
           heads, head_dim, static_cast<float>(scale), false);
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["scale"] = scale;
    return out;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor grad = grads[0].contiguous();
    const int64_t batch = grad.size(0), heads = grad.size(1), length = grad.size(2), head_dim = grad.size(3);
    Tensor out = at::empty({batch, length, heads * head_dim}, grad.options());
    Rotate(grad.data_ptr<float>(), out.data_ptr<float>(), saved[0].data_ptr<float>(), saved[1].data_ptr<float>(), batch,
           length, heads, head_dim, static_cast<float>(ctx->saved_data["scale"].toDouble()), true);
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

// Softmax over the permitted columns of rows laid out [.., length queries, length keys], in place; zero elsewhere.
void AddCausalMask(Tensor& scores, int64_t length) {
  Tensor mask = at::full({length, length}, -std::numeric_limits<float>::infinity(), scores.options()).triu_(1);
  scores.view({-1, length, length}).add_(mask);
}

struct AttentionFunction : Function<AttentionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& query, const Tensor& key, const Tensor& value) {
    const int64_t batch = query.size(0), heads = query.size(1), length = query.size(2), head_dim = query.size(3);
    const int64_t kv_heads = key.size(1), group = heads / kv_heads;
    const Tensor q = query.reshape({batch * kv_heads, group * length, head_dim});
    const Tensor k = key.reshape({batch * kv_heads, length, head_dim});
    const Tensor v = value.reshape({batch * kv_heads, length, head_dim});
    Tensor scores = at::bmm(q, k.transpose(1, 2));
    AddCausalMask(scores, length);
    Tensor probabilities = at::softmax(scores, -1);
    Tensor out = at::bmm(probabilities, v);
    ctx->save_for_backward({q, k, v, probabilities});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["kv_heads"] = kv_heads;
    return out.view({batch, heads, length, head_dim}).transpose(1, 2).reshape({batch, length, heads * head_dim});
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &probabilities = saved[3];
    const int64_t heads = ctx->saved_data["heads"].toInt(), kv_heads = ctx->saved_data["kv_heads"].toInt();
    const int64_t length = k.size(1), head_dim = k.size(2), batch = k.size(0) / kv_heads;
    const Tensor grad = grads[0].view({batch, length, heads, head_dim}).transpose(1, 2).reshape(q.sizes());
    Tensor grad_v = at::bmm(probabilities.transpose(1, 2), grad);
    Tensor grad_p = at::bmm(grad, v.transpose(1, 2));
    Tensor grad_s = at::_softmax_backward_data(grad_p, probabilities, -1, at::kFloat);
    Tensor grad_q = at::bmm(grad_s, k);
    Tensor grad_k = at::bmm(grad_s.transpose(1, 2), q);
    return {grad_q.view({batch, heads, length, head_dim}), grad_k.view({batch, kv_heads, length, head_dim}),
            grad_v.view({batch, kv_heads, length, head_dim})};
  }
};

// Turns a piece of logits into d(sum of losses)/d(logits) in place, and returns the sum of the losses of the rows.
double SoftmaxMinusTarget(Tensor& logits, const int64_t* targets) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  logits.sub_(logits.amax(1, true));
  float* values = logits.data_ptr<float>();
  std::vector<float> of_target(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) of_target[i] = targets[i] == kIgnoredTarget ? 0 : values[i * vocab + targets[i]];
  logits.exp_();
  const Tensor sums = logits.sum(1, true);
  logits.div_(sums);
  const Tensor log_sums = sums.log();
  double loss = 0;
  for (int64_t i = 0; i < rows; ++i) {
    if (targets[i] == kIgnoredTarget) {
      std::fill_n(values + i * vocab, vocab, 0.0F);
      continue;
    }
    values[i * vocab + targets[i]] -= 1.0F;
    loss += static_cast<double>(log_sums.data_ptr<float>()[i]) - of_target[i];
  }
  return loss;
}

struct LinearCrossEntropyFunction : Function<LinearCrossEntropyFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                        bool to_hidden, bool to_weight) {
    const int64_t rows = hidden.size(0), vocab = weight.size(0);
    const int64_t* target = targets.data_ptr<int64_t>();
    int64_t counted = 0;
    for (int64_t i = 0; i < rows; ++i) {
      TORCH_CHECK(target[i] == kIgnoredTarget || (target[i] >= 0 && target[i] < vocab), "target ", target[i],
                  " is outside the vocabulary of ", vocab);
      counted += target[i] != kIgnoredTarget;
    }
    const double mean = counted == 0 ? 0.0 : 1.0 / static_cast<double>(counted);
    Tensor grad_hidden, grad_weight;
    if (to_hidden) grad_hidden = at::empty_like(hidden);
    if (to_weight) grad_weight = at::zeros_like(weight);
    const int64_t piece = std::clamp<int64_t>(kLogitsPerPiece / vocab, 32, 4096);
    double loss = 0;
    for (int64_t begin = 0; begin < rows; begin += piece) {
      const Tensor part = hidden.slice(0, begin, std::min(rows, begin + piece));
      Tensor logits = at::mm(part, weight.t());
      loss += SoftmaxMinusTarget(logits, target + begin);
      if (!to_hidden && !to_weight) continue;
      logits.mul_(mean);
      if (to_hidden) {
        Tensor into = grad_hidden.slice(0, begin, begin + part.size(0));
        at::mm_out(into, logits, weight);
      }
      if (to_weight) grad_weight.addmm_(logits.t(), part);
    }
    ctx->save_for_backward({grad_hidden, grad_weight});
    return at::scalar_tensor(loss * mean, hidden.options());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {saved[0].defined() ? saved[0] * grads[0] : Tensor(), saved[1].defined() ? saved[1] * grads[0] : Tensor(),
            Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor RmsNorm(const Tensor& x, const Tensor& weight, double eps) { return RmsNormFunction::apply(x, weight, eps); }

Tensor RotateHeads(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t heads, double scale) {
  return RotateFunction::apply(x, cos, sin, heads, scale);
}

Tensor SwiGlu(const Tensor& gate, const Tensor& up) { return SwiGluFunction::apply(gate, up); }

Tensor CausalAttention(const Tensor& query, const Tensor& key, const Tensor& value) {
  return AttentionFunction::apply(query, key, value);
}

Tensor LinearCrossEntropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  const bool grad = at::GradMode::is_enabled();  // always off inside forward
  return LinearCrossEntropyFunction::apply(hidden.contiguous(), weight, targets.contiguous(),
                                           grad && hidden.requires_grad(), grad && weight.requires_grad());
}

}  // namespace heddle::model
