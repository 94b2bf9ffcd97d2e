// Distillation of an emulator (Offsite-Tuning; Xiao et al., 2302.04870; FedOT of FederatedScope-LLM) by who has the
// model: the layers that were kept between the ends learn to do what all of the model's layers there do.
//
//   L = lm_weight * LM + kd_weight * KD,   KD = mean(((h_t - h_s) / rms(h_t))^2)
//
// LM is the emulator's own loss on its task, h_t the residual stream behind the model's layers between the ends, h_s
// that behind the emulator's; rms is over all of the batch, as is the mean, padding left out. Only the layers between
// the ends are trained, so what comes into them is the same on both sides. Offsite-Tuning weighs 1 and 30, FedOT .1 and
// .9.
//
// Life cycle: Make; for each step LossOf, backward() on its total, a step of an optimizer over parameters(); Values at
// the end. The weights of the model are shared, not copied, but for those that are trained. One thread at a time.
// Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <memory>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/transformer/transformer.h"
#include "model/weights/base_weights.h"
#include "peft/parts/emulator.h"
#include "peft/tuning/tuning.h"

namespace heddle::peft {

// KD of residual streams [batch, length, hidden]. `mask` [batch, length], 0 where there is padding, or undefined. Not
// finite where the teacher's is zero everywhere.
torch::Tensor RelativeDistance(const torch::Tensor& teacher, const torch::Tensor& student, const torch::Tensor& mask);

class Distiller {
 public:
  // `whole`: the model, in float32. `checkpoint`: its tensors, under the names of its files. `emulator`: of it, by
  // PlanEmulator. Errors: kInvalidArgument when no layer is kept between the ends, and those of MakeInitialAdapter.
  static Result<Distiller> Make(const std::shared_ptr<const model::BaseWeights>& whole, const StateDict& checkpoint,
                                const Emulator& emulator, const model::ComputeOptions& compute = {});

  struct Loss {
    torch::Tensor total;  // a scalar with a graph
    double lm = 0, kd = 0;
  };
  // Input and targets as TransformerImpl::Loss takes them.
  Loss LossOf(const model::ModelInput& input, const torch::Tensor& targets, double lm_weight, double kd_weight);

  // Leaves that share storage with the emulator, in the order of their names.
  std::vector<torch::Tensor> parameters() const;
  // Copies of them, float32, under the names of the whole.
  StateDict Values() const;

 private:
  Distiller(model::Transformer teacher, model::Transformer student, Tuning tuning, int64_t teacher_layers,
            int64_t student_layers)
      : teacher_(std::move(teacher)),
        student_(std::move(student)),
        tuning_(std::move(tuning)),
        teacher_layers_(teacher_layers),
        student_layers_(student_layers) {}

  model::Transformer teacher_, student_;
  Tuning tuning_;
  int64_t teacher_layers_, student_layers_;  // of each, those before the last end
};

}  // namespace heddle::peft
