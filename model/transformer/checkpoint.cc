#include "model/transformer/checkpoint.h"

#include <utility>

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct Replay : torch::CustomClassHolder {
  std::function<Tensor(const Tensor&)> function;
  std::vector<std::pair<at::Generator, Tensor>> states;
};

// Sets the generators back for as long as it lives.
class Rewind {
 public:
  explicit Rewind(const Replay& replay) : replay_(replay) {
    for (const auto& [generator, state] : replay.states) {
      at::Generator same = generator;
      now_.push_back(same.get_state());
      same.set_state(state);
    }
  }
  ~Rewind() {
    for (size_t i = 0; i < now_.size(); ++i) {
      at::Generator same = replay_.states[i].first;
      same.set_state(now_[i]);
    }
  }
  Rewind(const Rewind&) = delete;
  Rewind& operator=(const Rewind&) = delete;

 private:
  const Replay& replay_;
  std::vector<Tensor> now_;
};

struct CheckpointFunction : Function<CheckpointFunction> {
  // `anchor` needs a gradient, so that there is a backward pass also where x does not need one.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& /*anchor*/,
                        const c10::intrusive_ptr<Replay>& replay) {
    ctx->save_for_backward({x});
    ctx->saved_data["replay"] = c10::IValue::make_capsule(replay);
    at::NoGradGuard no_grad;
    return replay->function(x);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const Tensor saved = ctx->get_saved_variables()[0];
    const auto capsule = ctx->saved_data["replay"].toCapsule();
    const auto& replay = static_cast<const Replay&>(*capsule);
    const bool needs = ctx->needs_input_grad(0);
    Tensor x = saved.detach().requires_grad_(needs);
    Tensor y;
    {
      const Rewind rewind(replay);
      at::AutoGradMode with_grad(true);
      y = replay.function(x);
    }
    if (y.requires_grad()) torch::autograd::backward({y}, {grads[0]});
    return {needs ? x.grad() : Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor Checkpoint(std::function<Tensor(const Tensor&)> function, const Tensor& x,
                  const std::vector<at::Generator>& generators) {
  if (!at::GradMode::is_enabled()) return function(x);
  auto replay = c10::make_intrusive<Replay>();
  replay->function = std::move(function);
  for (at::Generator generator : generators) replay->states.emplace_back(generator, generator.get_state());
  const Tensor anchor = at::empty({0}).requires_grad_(true);
  return CheckpointFunction::apply(x, anchor, replay);
}

}  // namespace heddle::model
