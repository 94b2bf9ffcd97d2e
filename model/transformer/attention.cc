#include "model/transformer/attention.h"

#include <limits>

#include "model/transformer/functions.h"

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct AttentionFunction : Function<AttentionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& query, const Tensor& key, const Tensor& value,
                        const c10::optional<Tensor>& mask) {
    const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2), head_dim = query.size(3);
    const int64_t kv_heads = key.size(1), keys = key.size(2), group = heads / kv_heads;
    const Tensor q = query.reshape({batch * kv_heads, group * queries, head_dim});
    const Tensor k = key.reshape({batch * kv_heads, keys, head_dim});
    const Tensor v = value.reshape({batch * kv_heads, keys, head_dim});
    Tensor scores = at::bmm(q, k.transpose(1, 2));
    if (mask) scores.view({batch, heads, queries, keys}).add_(*mask);
    Tensor probabilities = at::softmax(scores, -1);
    Tensor out = at::bmm(probabilities, v);
    ctx->save_for_backward({q, k, v, probabilities});
    ctx->saved_data["batch"] = batch;
    return out.view({batch, heads, queries, head_dim}).transpose(1, 2).reshape({batch, queries, heads * head_dim});
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &probabilities = saved[3];
    const int64_t batch = ctx->saved_data["batch"].toInt(), kv_heads = k.size(0) / batch, keys = k.size(1);
    const int64_t head_dim = k.size(2), queries = grads[0].size(1), heads = grads[0].size(2) / head_dim;
    const Tensor grad = grads[0].reshape({batch, queries, heads, head_dim}).transpose(1, 2).reshape(q.sizes());
    Tensor grad_v = at::bmm(probabilities.transpose(1, 2), grad);
    Tensor grad_p = at::bmm(grad, v.transpose(1, 2));
    Tensor grad_s = at::_softmax_backward_data(grad_p, probabilities, -1, probabilities.scalar_type());
    Tensor grad_q = at::bmm(grad_s, k);
    Tensor grad_k = at::bmm(grad_s.transpose(1, 2), q);
    return {grad_q.view({batch, heads, queries, head_dim}), grad_k.view({batch, kv_heads, keys, head_dim}),
            grad_v.view({batch, kv_heads, keys, head_dim}), Tensor()};
  }
};

// The same by LibTorch's operators, for tangents.
Tensor PlainAttention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask) {
  const int64_t batch = query.size(0), heads = query.size(1), queries = query.size(2), head_dim = query.size(3);
  const int64_t kv_heads = key.size(1), keys = key.size(2), group = heads / kv_heads;
  const Tensor k = key.reshape({batch * kv_heads, keys, head_dim}), v = value.reshape(k.sizes());
  Tensor scores = at::bmm(query.reshape({batch * kv_heads, group * queries, head_dim}), k.transpose(1, 2));
  if (mask.defined()) scores = (scores.reshape({batch, heads, queries, keys}) + mask).reshape(scores.sizes());
  const Tensor out = at::bmm(at::softmax(scores, -1), v).reshape({batch, heads, queries, head_dim});
  return out.transpose(1, 2).reshape({batch, queries, heads * head_dim});
}

}  // namespace

Tensor Attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask) {
  if (HasTangent(query, key, value)) return PlainAttention(query, key, value, mask);
  return AttentionFunction::apply(query, key, value, mask.defined() ? c10::make_optional(mask) : c10::nullopt);
}

Tensor AttentionMask(const MaskSpec& spec, const torch::TensorOptions& options) {
  const int64_t past = spec.keys - spec.queries;
  const bool windowed = spec.causal && spec.window > 0 && spec.window < spec.keys;
  // One query behind all keys sees them all.
  if ((!spec.causal || spec.queries == 1) && !windowed && !spec.padding.defined() && !spec.segments.defined())
    return {};
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  Tensor mask = at::zeros({1, 1, spec.queries, spec.keys}, options);
  if (spec.causal) mask = at::full({1, 1, spec.queries, spec.keys}, kNever, options).triu_(past + 1);
  if (windowed) mask = mask + at::full({spec.queries, spec.keys}, kNever, options).tril_(past - spec.window);
  if (!spec.padding.defined() && !spec.segments.defined()) return mask;
  if (spec.padding.defined()) {
    mask = mask.masked_fill(spec.padding.eq(0).unsqueeze(1).unsqueeze(1), kNever);
  }
  if (spec.segments.defined()) {
    const Tensor of_query = spec.segments.slice(1, past).unsqueeze(2), of_key = spec.segments.unsqueeze(1);
    Tensor apart = of_query.ne(of_key);
    if (spec.shared > 0) apart.slice(2, 0, spec.shared).fill_(false);
    mask = mask.masked_fill(apart.unsqueeze(1), kNever);
  }
  const Tensor blind = mask.eq(kNever).all(-1, true);
  const Tensor self = at::eye(spec.keys, mask.options().dtype(at::kBool)).slice(0, past);
  return mask.masked_fill(blind.logical_and(self), 0.0);
}

}  // namespace heddle::model
