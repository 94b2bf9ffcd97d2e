// Adapters on a model, whatever their kind: putting one in, training it, taking it out, merging it into the weights.
//
// Life cycle: Inject puts an adapter into a Transformer and returns its handle; several may be put in one after the
// other (stacked), of which one may be trained. Parameters are what an optimizer trains, Extract copies them out,
// Remove takes the adapter off again; dropping the handle leaves it in. The handle shares the model.
//
// The base is never copied and never changed: factors, scales and networks stand beside its tensors, and a parameter
// that is itself trained (BITFIT, FULL, modules_to_save) is replaced in this one model, not in the shared weights.
// Merging makes one new weight for each layer that has something to merge; unmerging drops it, so that the model is
// what it was before, bit for bit. The base may be kept in float32, bfloat16, int8 or NF4.
//
// One thread at a time. Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/adapter.h"

namespace heddle::peft {

enum class Use {
  kTrain,  // leaf tensors that require a gradient; one such adapter a model
  kFrozen  // for evaluation, and under the one that is trained
};

struct TunedParameter {
  std::string key;
  torch::Tensor tensor;    // float32, shares storage with the model
  double rate_factor = 1;  // it learns so many times as fast as the others (LoRA+)
};

class Tuning {
 public:
  // Copies `tensors` into the model, checked whole before anything is changed. Names that begin with "heddle." need not
  // be those of the configuration: heddle.base_delta factors become part of the base's weights, and so do the values of
  // heddle.dense (common/sparse_delta.h), which are trained beside the adapter; others are ignored.
  // Virtual tokens of a second adapter stand behind those of the first. Errors: kInvalidArgument when keys and shapes
  // are not exactly those that `config` asks for on this model, when init_lora_weights is pissa and what was taken off
  // the base is not there, or when the adapter cannot stand on those that are in the model already (the same parameter
  // replaced twice, (IA)^3 and LoRA on one layer); kFailedPrecondition when another is being trained or the model is
  // merged. The model is then unchanged.
  static Result<Tuning> Inject(model::Transformer model, const AdapterConfig& config, const StateDict& tensors,
                               Use use = Use::kTrain);

  // By their keys, in key order; a frozen adapter's too. Values of heddle.dense come last, under those names.
  const std::vector<TunedParameter>& parameters() const { return parameters_; }
  // Copies as an adapter's tensors: F32, the keys of the configuration only.
  StateDict Extract() const;
  const AdapterConfig& config() const { return config_; }

  // Takes this adapter, and the base_delta factors that came with it, out of the model, which then computes as before
  // it came. Once; other handles stay good. Errors: kFailedPrecondition when the model is merged, or it is gone
  // already.
  Status Remove();

 private:
  Tuning(model::Transformer model, AdapterConfig config) : model_(std::move(model)), config_(std::move(config)) {}
  friend class Injector;

  model::Transformer model_;
  AdapterConfig config_;
  std::vector<TunedParameter> parameters_;
  std::vector<std::function<void()>> undo_;
};

// Makes the model compute with merged weights: one for each linear layer, equal to all adapters on it together (dropout
// apart), in float32, or bfloat16 where the base is. Whole parameters need no merging. Errors: kInvalidArgument when an
// adapter has virtual tokens or networks of its own, which no weight can express; the model is then unchanged.
Status Merge(model::Transformer& model);
// Back to what Merge found; without one it does nothing.
void Unmerge(model::Transformer& model);

// The adapter in the weights: a new checkpoint in float32, with the names of ModelSpec::WeightSpec. Errors:
// kInvalidArgument as Inject and Merge.
Result<StateDict> MergedWeights(const std::shared_ptr<const model::BaseWeights>& base, const AdapterConfig& config,
                                const StateDict& tensors);

// The bytes of a float tensor as a StateDict's tensor (copied, F32).
Tensor ToStateTensor(const torch::Tensor& tensor);
// A float32 copy on `device`.
torch::Tensor ToTorchTensor(const Tensor& tensor, const torch::Device& device = torch::kCPU);

}  // namespace heddle::peft
