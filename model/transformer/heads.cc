#include "model/transformer/heads.h"

#include "model/transformer/functions.h"
#include "model/transformer/loss.h"

namespace heddle::model {

using torch::Tensor;

Head::Head(ModuleTree& tree, const ModelSpec& spec, const Tensor& tokens)
    : spec_(spec),
      tokens_(tokens),
      dense_(tree.MakeLinear(spec.head.dense)),
      project_out_(tree.MakeLinear(spec.project_out)),
      norm_(tree, spec, spec.head.norm) {
  if (!spec.TiedHead()) output_ = tree.MakeLinear(spec.head.output);
  second_output_ = tree.MakeLinear(spec.head.second_output);
  const std::string& elsewhere = spec.head.output_bias_name;
  if (!spec.head.output_bias || (!spec.TiedHead() && elsewhere.empty())) return;
  output_bias_ = tree.Parameter(elsewhere.empty() ? spec.head.output + ".bias" : elsewhere);
}

Tensor Head::Select(const Tensor& hidden, const ModelInput& input) const {
  switch (spec_.head.pooling) {
    case Pooling::kAll:
      break;
    case Pooling::kFirst:
      return hidden.select(1, 0);
  }
  return hidden;
}

Tensor Head::Dense(const Tensor& rows) {
  Tensor x = rows;
  if (!dense_.is_empty()) x = Activate(dense_->forward(x), spec_.head.activation);
  x = norm_(x);
  return project_out_.is_empty() ? x : project_out_->forward(x);
}

Tensor Head::Output(const Tensor& rows) {
  Tensor y = output_.is_empty() ? at::linear(rows, tokens_.to(rows.scalar_type())) : output_->forward(rows);
  if (output_bias_.defined()) y = y + output_bias_.to(y.scalar_type());
  return IsReduced(y.scalar_type()) ? y.to(at::kFloat) : y;
}

Tensor Head::Pooled(const Tensor& hidden, const ModelInput& input) { return Dense(Select(hidden, input)); }

Tensor Head::Logits(const Tensor& hidden, const ModelInput& input) {
  TORCH_CHECK(spec_.head.task != Task::kNone, spec_.architecture, " has no output layer");
  const Tensor logits = Output(Pooled(hidden, input));
  if (second_output_.is_empty()) return logits;
  return (logits + second_output_->forward(hidden.select(1, 1)).to(logits.scalar_type())) / 2;
}

// Only the rows whose targets count go through the head of a masked language model; a causal one counts nearly all.
Tensor Head::WordLoss(const Tensor& hidden, const Tensor& targets) {
  TORCH_CHECK(targets.dim() == 2 && targets.size(0) == hidden.size(0) && targets.size(1) == hidden.size(1) &&
                  targets.scalar_type() == at::kLong,
              "targets must be int64, shaped like ids");
  Tensor rows = hidden.reshape({-1, hidden.size(-1)}), flat = targets.reshape({-1});
  if (spec_.head.task == Task::kMaskedLm) {
    const Tensor counted = flat.ne(kIgnoredTarget).nonzero().squeeze(1);
    rows = rows.index_select(0, counted);
    flat = flat.index_select(0, counted);
  }
  rows = Dense(rows);
  // What is added to the output layer, or its bias, needs the layer's own forward.
  if (output_bias_.defined() || (!output_.is_empty() && (output_->adapted() || output_->bias.defined()))) {
    if (flat.numel() == 0) return rows.sum().to(at::kFloat) * 0;
    return at::cross_entropy_loss(Output(rows), flat);
  }
  return LinearCrossEntropy(rows, output_.is_empty() ? tokens_ : output_->Dense(rows.scalar_type()), flat);
}

Tensor Head::Loss(const Tensor& hidden, const ModelInput& input, const Tensor& targets) {
  if (spec_.head.task == Task::kCausalLm || spec_.head.task == Task::kMaskedLm) return WordLoss(hidden, targets);
  const Tensor logits = Logits(hidden, input);
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == logits.size(0), "targets must be one label for each example");
  if (at::isFloatingType(targets.scalar_type())) {  // a grade, not a class
    TORCH_CHECK(spec_.num_labels == 1, "targets are numbers, but the model has ", spec_.num_labels, " labels");
    return at::mse_loss(logits.squeeze(1), targets.to(logits.scalar_type()));
  }
  const Tensor wrong = targets.lt(0).logical_or(targets.ge(spec_.num_labels));
  TORCH_CHECK(!wrong.any().item<bool>(), "a label is outside the model's ", spec_.num_labels, " labels");
  return at::cross_entropy_loss(logits, targets);
}

}  // namespace heddle::model
