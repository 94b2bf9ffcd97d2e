// The Llama architecture in LibTorch: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied or untied head.
// (Touvron et al., 2302.13971 and 2307.09288; parameter names and rotary layout of Hugging Face's LlamaForCausalLM.)
//
// Include only from translation units of targets with TORCH (precompiled torch/torch.h), never beside protobuf code.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"
#include "model/model_config.h"

namespace heddle::model {

// A checkpoint's tensors in float32, loaded once and shared: any number of Llama modules may be built on the same
// weights, which they never change. Immutable; thread-safe.
struct BaseWeights {
  LlamaConfig config;
  std::map<std::string, torch::Tensor> tensors;
  // Reads config.json and the safetensors of the folder, checks every name and shape against the config. F16 and BF16
  // are widened; F32 is used in place. Errors: kNotFound, kInvalidArgument with the tensor's name.
  static Result<std::shared_ptr<const BaseWeights>> Load(const std::filesystem::path& folder);
};

// A linear layer that may carry LoRA factors: y = x W^T (+ b) + scaling * (dropout(x) A^T) B^T.
struct LinearImpl : torch::nn::Module {
  // `bias` may be undefined. Both become parameters; `trainable` false freezes them.
  LinearImpl(torch::Tensor weight, torch::Tensor bias, bool trainable);
  torch::Tensor weight, bias;       // frozen views of the base, or trainable when pretraining
  torch::Tensor lora_A, lora_B;     // [r, in], [out, r]; undefined without LoRA
  double scaling = 0, dropout = 0;  // dropout acts in training mode only
  at::Generator dropout_generator;  // undefined: the process's default; see LlamaImpl::SeedDropout
  torch::Tensor forward(const torch::Tensor& x);
};
TORCH_MODULE(Linear);

// One model: parameters under Hugging Face's names (named_parameters(): "model.layers.0.self_attn.q_proj.weight", LoRA
// factors "….lora_A" when registered by the injector). One thread at a time; build one module a thread on shared
// weights. LibTorch's exceptions (c10::Error: ids out of range, too long a sequence, no memory) pass through: the
// callers' wall.
class LlamaImpl : public torch::nn::Module {
 public:
  // Frozen, on shared weights (fine-tuning).
  explicit LlamaImpl(std::shared_ptr<const BaseWeights> base);
  // Fresh trainable weights, normal(0, 0.02) from the seed (pretraining).
  LlamaImpl(const LlamaConfig& config, uint64_t seed);
  ~LlamaImpl() override;

  // ids: int64 [batch, length <= max_position_embeddings]. Returns float32 logits [batch, length, vocab].
  torch::Tensor forward(const torch::Tensor& ids);
  // Mean cross-entropy of targets (int64 [batch, length]; -100 is ignored), nats a token.
  torch::Tensor Loss(const torch::Tensor& ids, const torch::Tensor& targets);
  // Residual stream after the embedding and each layer, before the final norm: for tests.
  std::vector<torch::Tensor> HiddenStates(const torch::Tensor& ids);
  // Gives every linear layer a dropout generator of its own, so that masks depend on the seed and the layer only, not
  // on what else runs in the process.
  void SeedDropout(uint64_t seed);

  // Linear layers by module path ("model.layers.0.self_attn.q_proj"), for LoRA injection.
  std::map<std::string, Linear> LinearModules() const;
  const LlamaConfig& config() const;

 private:
  struct Body;
  void Build(const std::function<torch::Tensor(const std::string&)>& source, bool trainable);
  std::shared_ptr<Body> body_;
};
TORCH_MODULE(Llama);

}  // namespace heddle::model
