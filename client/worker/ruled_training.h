// What a method adds to plain training (DeviceRules of task.proto): tensors that stay as they are or stay on the
// device, and terms that join the gradient.
//
//   FedProx   (Li et al., 1812.06127):       g += mu (w - w_start)
//   SCAFFOLD  (Karimireddy et al., 1910.06378, option II): g += c - c_i; afterwards
//             c_i' = c_i - c + (w_start - w_end) / sum of the steps' learning rates; c_i' - c_i travels with the update
//   FedDyn    (Acar et al., 2111.04263):     g += alpha (w - w_start) - h_i; afterwards h_i' = h_i - alpha (w_end -
//             w_start)
//   HetLoRA   (Cho et al., 2401.06432): the loss gets lambda |A[t:]| |B[:, t:]| of each layer, t = max(1, floor(gamma
//   r));
//             when the sum of these products is smaller after the task than before, the device's rank is t from then on
//
// Life cycle: OwnPart before the adapter is injected, Make with its parameters; Correct before each step, Count after
// it; Finish once. One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "client/worker/local_task.h"
#include "peft/adapter/adapter.h"

namespace heddle::client {

class RuledTraining {
 public:
  using Parameters = std::vector<std::pair<std::string, torch::Tensor>>;

  // `parameters`: those of the adapter by key, leaf tensors that hold the start; `model`: all tensors that came from
  // the coordinator; `personal`: what the device kept (empty at first), of which what has another shape than the
  // model's is passed over. Kept tensors among it take their places as the start. Errors: kInvalidArgument when the
  // rules name a correction that is not known or an optimizer that does not go with it, or leave nothing to train.
  static Result<RuledTraining> Make(const TrainSettings& train, Parameters parameters, const StateDict& model,
                                    const StateDict& personal);

  // The adapter as this device trains it: cut to the rank that it has pruned itself to.
  static peft::Adapter OwnPart(const TrainRules& rules, const StateDict& personal, peft::Adapter adapter);

  // What the optimizer steps.
  std::vector<torch::Tensor> Trained() const;
  // Adds the method's terms to the gradients.
  void Correct();
  // A step was taken with this learning rate.
  void Count(double learning_rate) { learning_rates_ += learning_rate; }

  // The update and what the device keeps.
  void Finish(const StateDict& model, TaskOutput* output) const;

 private:
  struct Part {
    std::string key;
    torch::Tensor value, start;  // start undefined when no term needs it
    torch::Tensor drift;         // what joins each gradient: c - c_i, or -h_i; undefined: nothing
    torch::Tensor own;           // c_i or h_i
    bool kept = false;
    std::vector<int64_t> columns;  // of a prefix, those that travel; empty: all
  };

  // The two factors of a layer, as indices of parts_, and the first row of A that is of its tail.
  struct Tail {
    size_t a, b;
    int64_t begin;
  };
  void FindTails();
  double TailProducts() const;
  static Tensor Travelling(const Part& part, Tensor difference);

  TrainRules rules_;
  std::vector<Part> parts_;
  std::vector<Tail> tails_;  // with prune_gamma
  double tails_at_start_ = 0;
  int64_t rank_ = 0;  // of tails_
  double learning_rates_ = 0;
};

// Reads what a device kept; empty when there is no file or, with a warning, when it is damaged. Errors: those of files.
Result<StateDict> ReadPersonal(const std::filesystem::path& path);

}  // namespace heddle::client
