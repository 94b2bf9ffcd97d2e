// The tensors that a zeroth-order task trains, where its moves can reach them. Directions are made on the processor,
// with the same bits on every machine, so the values live in the processor's memory. A network that computes elsewhere
// (a GPU) gets them in one copy before it is asked for a loss; on the processor they are the network's own and nothing
// is copied.
//
// Life cycle: Make once per task, which lets the network's tensors be views of one block on its device; Publish after
// values have been moved and before a loss. The tensors and this object must outlive the spans. One thread at a time.
// Include only from translation units of targets with TORCH; LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "peft/adapter/prompt_generator.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {

class TrainedTensors {
 public:
  // Leaf tensors, float32 and each in one piece, all on one device. Errors: kInternal when one is not.
  static Result<TrainedTensors> Make(std::vector<torch::Tensor> tensors);

  const std::vector<torch::Tensor>& tensors() const { return tensors_; }  // those that the network reads
  size_t size() const { return tensors_.size(); }
  std::span<float> values(size_t i) { return values_[i]; }
  // Gives the network the values as they are now.
  void Publish();

 private:
  std::vector<torch::Tensor> tensors_;
  std::vector<std::span<float>> values_;
  torch::Tensor here_, there_;  // all of them in a row; undefined on the processor
};

// The weights of a prompt's generator (peft/adapter/prompt_generator.h), which are trained in the processor's memory
// while the network reads the prompt that they make.
//
// Life cycle: Of what an adapter holds; Attach once an adapter of start() is in a network; Publish as above. One thread
// at a time.
class GeneratedPrompt {
 public:
  // Errors: those of peft::WithPrompt.
  static Result<GeneratedPrompt> Of(const StateDict& model);
  const StateDict& start() const { return start_; }  // the model with the prompt of its generator
  // Errors: kInvalidArgument when the adapter has more than a prompt.
  Status Attach(const peft::Tuning& tuning);

  // Leaf tensors by key.
  const std::vector<std::pair<std::string, torch::Tensor>>& weights() const { return weights_; }
  const torch::Tensor& prompt() const { return prompt_; }  // the network's
  // Gives the network the prompt of the weights as they are now.
  void Publish();
  // Where the prompt goes as `moved`, tensors of weights(), go along `ways`, on the processor.
  torch::Tensor Along(const std::vector<torch::Tensor>& moved, const std::vector<torch::Tensor>& ways) const;

 private:
  peft::PromptGenerator::Weights Values() const;

  peft::PromptGenerator generator_;
  StateDict start_;
  std::vector<std::pair<std::string, torch::Tensor>> weights_;  // W1, b1, W2
  torch::Tensor prompt_;
};

}  // namespace heddle::client
