#include "zo_optim/estimator/forward_gradient.h"

#include <torch/csrc/autograd/forward_grad.h>

#include <mutex>
#include <string>
#include <string_view>

#include "common/assert.h"

namespace heddle::zo {
namespace {

// Ends the level, which takes all tangents off their tensors.
struct Level {
  uint64_t index = torch::autograd::ForwardADLevel::get_next_idx();
  Level() = default;
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  ~Level() { torch::autograd::ForwardADLevel::release_idx(index); }
};

}  // namespace

Result<Objective::Derivative> DirectionalDerivative(const std::vector<torch::Tensor>& parameters,
                                                    const std::vector<torch::Tensor>& tangents,
                                                    const std::function<torch::Tensor()>& loss) {
  HEDDLE_ASSERT(parameters.size() == tangents.size(), "one tangent a parameter");
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  const torch::NoGradGuard no_grad;
  const Level level;
  try {
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i]._set_fw_grad(tangents[i], level.index, /*is_inplace_op=*/false);
    }
    const torch::Tensor value = loss();
    const torch::Tensor along = value._fw_grad(level.index);
    return Objective::Derivative{value.item<double>(), along.defined() ? along.item<double>() : 0.0};
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    if (what.find("forward AD") == std::string::npos && what.find("jvp") == std::string::npos) throw;
    return Unimplemented("this model has no forward gradient, use the estimator spsa: LibTorch says: " + what);
  }
}

}  // namespace heddle::zo
