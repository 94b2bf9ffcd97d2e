#include "model/transformer/loss.h"

#include <algorithm>
#include <vector>

#include "model/config/memory_estimate.h"
#include "model/transformer/functions.h"

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Turns a piece of float32 logits on the CPU into d(sum of losses)/d(logits) in place, and returns the sum of the
// losses of the rows.
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

// The same by LibTorch's operators, for other types and devices.
double SoftmaxMinusTargetGeneral(Tensor& logits, const Tensor& targets) {
  const Tensor counts = targets.ne(kIgnoredTarget).unsqueeze(1);
  const Tensor column = targets.clamp_min(0).unsqueeze(1);
  const Tensor log_probabilities = at::log_softmax(logits, 1);
  const double loss = -log_probabilities.gather(1, column).masked_fill(counts.logical_not(), 0).sum().item<double>();
  logits = log_probabilities.exp();
  logits.scatter_add_(1, column, at::full_like(column, -1, logits.options()));
  logits.mul_(counts);
  return loss;
}

void CheckTargets(const Tensor& targets, int64_t vocab) {
  const Tensor wrong = targets.ne(kIgnoredTarget).logical_and(targets.lt(0).logical_or(targets.ge(vocab)));
  if (!wrong.any().item<bool>()) return;
  TORCH_CHECK(false, "target ", targets.masked_select(wrong)[0].item<int64_t>(), " is outside the vocabulary of ",
              vocab);
}

struct LinearCrossEntropyFunction : Function<LinearCrossEntropyFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                        bool to_hidden, bool to_weight) {
    const int64_t rows = hidden.size(0), vocab = weight.size(0);
    CheckTargets(targets, vocab);
    const auto type = hidden.scalar_type();
    const bool loops = type != at::kDouble && hidden.device().is_cpu();
    const auto counted = targets.ne(kIgnoredTarget).sum().item<int64_t>();
    const double mean = counted == 0 ? 0.0 : 1.0 / static_cast<double>(counted);
    Tensor grad_hidden, grad_weight;
    if (to_hidden) grad_hidden = at::empty_like(hidden);
    if (to_weight) grad_weight = at::zeros_like(weight);
    const int64_t piece = LossRows(vocab);
    double loss = 0;
    for (int64_t begin = 0; begin < rows; begin += piece) {
      const Tensor part = hidden.slice(0, begin, std::min(rows, begin + piece));
      Tensor logits = at::mm(part, weight.t());
      if (IsReduced(type)) logits = logits.to(at::kFloat);
      if (loops) {
        loss += SoftmaxMinusTarget(logits, targets.data_ptr<int64_t>() + begin);
      } else {
        loss += SoftmaxMinusTargetGeneral(logits, targets.slice(0, begin, begin + part.size(0)));
      }
      if (!to_hidden && !to_weight) continue;
      logits = logits.mul_(mean).to(type);
      if (to_hidden) {
        Tensor into = grad_hidden.slice(0, begin, begin + part.size(0));
        at::mm_out(into, logits, weight);
      }
      if (to_weight) grad_weight.addmm_(logits.t(), part);
    }
    ctx->save_for_backward({grad_hidden, grad_weight});
    return at::scalar_tensor(loss * mean, hidden.options().dtype(type == at::kDouble ? at::kDouble : at::kFloat));
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto times = [&grads](const Tensor& saved_grad) {
      return saved_grad.defined() ? saved_grad * grads[0].to(saved_grad.scalar_type()) : Tensor();
    };
    return {times(saved[0]), times(saved[1]), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor LinearCrossEntropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  if (HasTangent(hidden, weight)) {
    CheckTargets(targets, weight.size(0));
    if (targets.eq(kIgnoredTarget).all().item<bool>()) return hidden.sum() * 0;
    const Tensor logits = at::mm(hidden, weight.to(hidden.scalar_type()).t());
    return at::cross_entropy_loss(IsReduced(logits.scalar_type()) ? logits.to(at::kFloat) : logits, targets);
  }
  const bool grad = at::GradMode::is_enabled();  // always off inside forward
  return LinearCrossEntropyFunction::apply(hidden.contiguous(), weight.to(hidden.scalar_type()), targets.contiguous(),
                                           grad && hidden.requires_grad(), grad && weight.requires_grad());
}

}  // namespace heddle::model
