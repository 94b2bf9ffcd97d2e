// One side of a split model: a part of the model, what is trained of it, and the optimizer; and tensors at the cut as
// frames. What the device's half (client/split) and the server's (coordinator/split) have in common.
//
// Life cycle: Make; for each micro-batch SeedDropout, forward and backward passes by network(); FinishStep after the
// last. Save at a boundary between steps, Restore to one. One thread at a time. Include only from translation units of
// targets with TORCH, never beside protobuf code. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/adapter/adapter_config.h"
#include "peft/tuning/tuning.h"
#include "protocol/split/frame.h"
#include "protocol/split/plan.h"

namespace heddle::peft {

// What a plan trains on a side whose part this is. Errors: kInvalidArgument with the side's name when the plan does not
// fit the model.
Result<AdapterConfig> SideConfig(const protocol::SplitSide& side);
// Its first values; empty when nothing is trained. `base`: the part's weights; the values are those that the whole
// model's adapter would have.
Result<StateDict> InitialSide(const model::BaseWeights& base, const protocol::SplitSide& side, uint64_t seed);

class SplitHalf {
 public:
  // `adapter`: of InitialSide, or of an earlier round. Errors: those of Tuning::Inject; kInvalidArgument for an adapter
  // of a side that trains nothing.
  static Result<std::unique_ptr<SplitHalf>> Make(std::shared_ptr<const model::BaseWeights> part,
                                                 const protocol::SplitSide& side, const StateDict& adapter,
                                                 const model::ComputeOptions& compute = {});

  model::Transformer& network() { return network_; }
  // Dropout masks of a micro-batch depend on these and the layer only, so that a step that is done again is the same.
  void SeedDropout(uint64_t session_seed, uint32_t step, uint32_t micro);

  // With the gradients of `micros` micro-batches, each the sum over its targets when there are several: leaves the mean
  // over the `counted` targets of them all, clips, and steps. Errors: kInternal when the gradient is not finite; the
  // parameters are then as before.
  Status FinishStep(uint32_t micros, uint64_t counted);
  void DropGradients();

  // For halves that are used in turn on one set of parameters: those of `other`, a half of the same side, now; and the
  // gradients of this one over to it: as they are, in place of what it has, or times `weight`, added to that.
  void CopyParameters(const SplitHalf& other);
  void MoveGradients(SplitHalf& other);
  void AddGradients(SplitHalf& other, double weight);
  // Exchanges the gradients for those in `aside`, empty at first: for a pass whose gradients are added among themselves
  // before AddAside adds them to the others, so that the order of passes does not change a sum.
  void SwapGradients(std::vector<torch::Tensor>* aside);
  void AddAside(std::vector<torch::Tensor>* aside);

  // The adapter, copied; empty when nothing is trained.
  StateDict Adapter() const;
  // Adapter and optimizer. Restore wants what Save gave, of the same side. Errors: kDataLoss; nothing is changed.
  StateDict Save() const;
  Status Restore(const StateDict& saved);

 private:
  SplitHalf(model::Transformer network, const protocol::SplitSide& side) : network_(std::move(network)), side_(side) {}

  model::Transformer network_;
  const protocol::SplitSide side_;
  std::optional<Tuning> tuning_;  // none when nothing is trained
  std::vector<torch::Tensor> parameters_;
  std::unique_ptr<model::Optimizer> optimizer_;
};

// Trained minus `start`. Same keys and shapes (asserted by the maker: both are adapters of one side).
StateDict Difference(const StateDict& trained, const StateDict& start);

// The residual stream or its gradient [batch, length, width], as a frame's shape and bytes. Errors: kInvalidArgument
// when a value is not finite.
Status PutTensor(const torch::Tensor& x, protocol::CutEncoding encoding, protocol::TensorFrame* frame);
// In `type`. Errors: those of DecodeTensor.
Result<torch::Tensor> TakeTensor(const protocol::TensorFrame& frame, at::ScalarType type, const torch::Device& device);

// Mask, segments and targets into a frame and out of it. Positions of packed rows are those that a model counts by
// itself, so they do not travel. Errors: kInvalidArgument when there are positions without segments, more than 65536
// segments in a batch, or a target that does not fit the frame.
Status PutInput(const model::ModelInput& input, const torch::Tensor& targets, protocol::TensorFrame* frame);
model::ModelInput TakeInput(const protocol::TensorFrame& frame, const torch::Device& device);
torch::Tensor TakeTargets(const protocol::TensorFrame& frame, const torch::Device& device);

}  // namespace heddle::peft
