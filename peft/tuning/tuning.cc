#include "peft/tuning/tuning.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "common/sparse_delta.h"

namespace heddle::peft {
namespace {

model::Activation ActivationOf(const std::string& name) {
  if (name == "gelu") return model::Activation::kGelu;
  if (name == "gelu_new") return model::Activation::kGeluTanh;
  if (name == "silu") return model::Activation::kSilu;
  if (name == "tanh") return model::Activation::kTanh;
  return model::Activation::kRelu;
}

bool IsMerged(model::Transformer& model) {
  for (auto& [path, linear] : model->LinearModules()) {
    if (linear->merged_weight.defined()) return true;
  }
  return false;
}

void EraseTensor(std::vector<torch::Tensor>* list, const torch::Tensor& tensor) {
  std::erase_if(*list, [&tensor](const torch::Tensor& one) { return one.is_same(tensor); });
}

}  // namespace

// Puts one adapter in: first looks whether all of it fits, then changes the model.
class Injector {
 public:
  Injector(model::Transformer model, const AdapterConfig& config, const StateDict& tensors, Use use)
      : tuning_(std::move(model), config), tensors_(tensors), use_(use), linears_(tuning_.model_->LinearModules()) {}

  Result<Tuning> Run() {
    model::Transformer& model = tuning_.model_;
    HEDDLE_ASSIGN_OR_RETURN(slots_, ListSlots(model->spec(), tuning_.config_));
    HEDDLE_RETURN_IF_ERROR(CheckFits(slots_, tensors_));
    HEDDLE_ASSIGN_OR_RETURN(deltas_, FindBaseDeltas(model->spec(), tensors_));
    HEDDLE_ASSIGN_OR_RETURN(sparse_, FindSparse());
    for (auto& parameter : model->named_parameters()) named_.emplace(parameter.key(), parameter.value());
    HEDDLE_RETURN_IF_ERROR(CheckModel());
    HEDDLE_RETURN_IF_ERROR(CheckPissa());
    for (const BaseDelta& delta : deltas_) AddDelta(delta);
    for (const SparseDelta& delta : sparse_) AddSparse(delta);
    for (const Slot& slot : slots_) {
      torch::Tensor tensor = ToTorchTensor(tensors_.find(slot.key)->second, model->device());
      if (use_ == Use::kTrain) tensor.requires_grad_(true);
      double rate_factor = 1;
      if (slot.role == SlotRole::kLoraB) rate_factor = tuning_.config_.loraplus_lr_ratio;
      if (slot.role == SlotRole::kParameter) tensor = Replace(slot.path, tensor);
      tuning_.parameters_.push_back({slot.key, tensor, rate_factor});
    }
    Attach();
    for (size_t i = 0; i < sparse_.size(); ++i) {
      tuning_.parameters_.push_back({std::string(kDensePrefix) + sparse_[i].path, sparse_values_[i]});
    }
    return std::move(tuning_);
  }

 private:
  Status CheckModel() {
    model::Transformer& model = tuning_.model_;
    if (IsMerged(model)) return FailedPrecondition("the model is merged: unmerge it before an adapter is added");
    const bool scales = tuning_.config_.kind() == TuningKind::kIa3,
               factors = tuning_.config_.kind() == TuningKind::kLora;
    for (const Slot& slot : slots_) {
      if (slot.role == SlotRole::kParameter) {
        HEDDLE_RETURN_IF_ERROR(CheckParameter(slot));
        continue;
      }
      const auto linear = linears_.find(slot.path);
      if (!scales && !factors) continue;
      if (linear == linears_.end()) return InvalidArgument("the base model's weights lack " + slot.path);
      const bool has_scales = !linear->second->scale_in.empty() || !linear->second->scale_out.empty();
      if ((scales && HasFactors(linear->second)) || (factors && has_scales)) {
        return InvalidArgument("LORA and IA3 cannot both be on " + slot.path);
      }
    }
    if (use_ == Use::kTrain && IsTrained(model)) {
      return FailedPrecondition("another adapter of this model is being trained: remove it, or stack it frozen");
    }
    return OkStatus();
  }
  static bool HasFactors(const model::Linear& linear) {
    return linear->lora_A.defined() || std::any_of(linear->stacked.begin(), linear->stacked.end(),
                                                   [](const model::LowRank& one) { return !one.of_base; });
  }
  bool IsTrained(model::Transformer& model) {
    for (auto& [path, linear] : linears_) {
      if (linear->lora_A.defined()) return true;
      for (const auto* list : {&linear->scale_in, &linear->scale_out}) {
        for (const torch::Tensor& scale : *list) {
          if (scale.requires_grad()) return true;
        }
      }
      if (linear->weight.defined() && linear->weight.requires_grad()) return true;
      for (const model::SparseWeight& part : linear->sparse) {
        if (part.values.requires_grad()) return true;
      }
    }
    for (const auto& [name, tensor] : named_) {
      if (tensor.requires_grad()) return true;
    }
    const model::TuningSlots& slots = model->slots();
    for (const auto* list : {&slots.prompts, &slots.prefixes}) {
      for (const torch::Tensor& tensor : *list) {
        if (tensor.requires_grad()) return true;
      }
    }
    for (const model::LayerSlots& layer : slots.layers) {
      for (const auto* list : {&layer.after_attention, &layer.after_mlp, &layer.key_value}) {
        for (const model::Bottleneck& network : *list) {
          if (network.down.requires_grad()) return true;
        }
      }
    }
    return false;
  }

  // Whether the parameter is there, and still the base's.
  Status CheckParameter(const Slot& slot) {
    const auto& base = tuning_.model_->base();
    if (base == nullptr) return InvalidArgument("a model that is being pretrained takes no adapter of this kind");
    if (base->packed.contains(slot.path)) {
      if (linears_.at(slot.path.substr(0, slot.path.rfind('.')))->packed) return OkStatus();
    } else {
      const auto stored = base->tensors.find(slot.path);
      const auto here = named_.find(slot.path);
      if (stored == base->tensors.end() || here == named_.end()) {
        return InvalidArgument("the base model's weights lack " + slot.path);
      }
      if (here->second.data_ptr() == stored->second.data_ptr()) return OkStatus();
    }
    return InvalidArgument("another adapter of this model has " + slot.path + " already");
  }

  Status CheckPissa() const {
    if (!tuning_.config_.IsPissa() || tuning_.config_.kind() != TuningKind::kLora) return OkStatus();
    for (const Slot& slot : slots_) {
      if (slot.role != SlotRole::kLoraA || tensors_.contains(BaseDeltaAKey(slot.path))) continue;
      return InvalidArgument("init_lora_weights is pissa, and the adapter lacks " + BaseDeltaAKey(slot.path) +
                             ", which says what was taken off the base: convert it to plain LoRA with PEFT "
                             "(save_pretrained with path_initial_model_for_weight_conversion)");
    }
    return OkStatus();
  }

  void AddDelta(const BaseDelta& delta) {
    model::Linear linear = linears_.at(delta.path);
    model::LowRank factors;
    factors.A = ToTorchTensor(tensors_.find(delta.key_a)->second, linear->device());
    factors.B = ToTorchTensor(tensors_.find(delta.key_b)->second, linear->device());
    factors.of_base = true;
    const torch::Tensor a = factors.A;
    linear->stacked.push_back(std::move(factors));
    tuning_.undo_.push_back([linear, a]() mutable {
      std::erase_if(linear->stacked, [&a](const model::LowRank& one) { return one.A.is_same(a); });
    });
  }

  Result<std::vector<SparseDelta>> FindSparse() {
    return FindSparseDeltas(tensors_, [&](std::string_view path) -> std::optional<std::pair<int64_t, int64_t>> {
      const auto found = linears_.find(std::string(path));
      if (found == linears_.end()) return std::nullopt;
      return std::pair(found->second->out, found->second->in);
    });
  }

  void AddSparse(const SparseDelta& delta) {
    model::Linear linear = linears_.at(delta.path);
    model::SparseWeight weight;
    weight.values = ToTorchTensor(delta.values, linear->device());
    if (use_ == Use::kTrain) weight.values.requires_grad_(true);
    weight.places = torch::empty({static_cast<int64_t>(delta.places.size())}, torch::kInt64);
    std::copy(delta.places.begin(), delta.places.end(), weight.places.data_ptr<int64_t>());
    const torch::Tensor values = weight.values;
    sparse_values_.push_back(values);
    linear->sparse.push_back(std::move(weight));
    tuning_.undo_.push_back([linear, values]() mutable {
      std::erase_if(linear->sparse, [&values](const model::SparseWeight& one) { return one.values.is_same(values); });
    });
  }

  // The model's own handle on a parameter, now of these values.
  torch::Tensor Replace(const std::string& name, const torch::Tensor& values) {
    const auto& base = tuning_.model_->base();
    if (const auto packed = base->packed.find(name); packed != base->packed.end()) {
      model::Linear linear = linears_.at(name.substr(0, name.rfind('.')));
      linear->weight = values;
      linear->packed = nullptr;
      tuning_.undo_.push_back([linear, kept = packed->second]() mutable {
        linear->packed = kept;
        linear->weight = torch::Tensor();
      });
      return values;
    }
    torch::Tensor here = named_.at(name);
    const torch::Tensor stored = base->tensors.at(name);
    here.set_data(values.detach());
    here.requires_grad_(values.requires_grad());
    tuning_.undo_.push_back([here, stored]() mutable {
      here.mutable_grad() = torch::Tensor();
      here.requires_grad_(false);
      here.set_data(stored.detach());
    });
    return here;
  }

  void Attach() {
    std::map<std::string, model::LowRank> factors;
    std::map<std::pair<int64_t, SlotPlace>, model::Bottleneck> networks;
    model::TuningSlots& slots = tuning_.model_->slots();
    for (size_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      const torch::Tensor tensor = tuning_.parameters_[i].tensor;
      switch (slot.role) {
        case SlotRole::kLoraA:
          factors[slot.path].A = tensor;
          break;
        case SlotRole::kLoraB:
          factors[slot.path].B = tensor;
          break;
        case SlotRole::kMagnitude:
          factors[slot.path].magnitude = tensor;
          break;
        case SlotRole::kScaleIn:
          AddScale(slot.path, tensor, true);
          break;
        case SlotRole::kScaleOut:
          AddScale(slot.path, tensor, false);
          break;
        case SlotRole::kPrompt:
          AddTokens(&slots.prompts, tensor, true);
          break;
        case SlotRole::kPrefix:
          AddTokens(&slots.prefixes, tensor, false);
          break;
        case SlotRole::kDown:
          networks[{slot.layer, slot.place}].down = tensor;
          break;
        case SlotRole::kDownBias:
          networks[{slot.layer, slot.place}].down_bias = tensor;
          break;
        case SlotRole::kUp:
          networks[{slot.layer, slot.place}].up = tensor;
          break;
        case SlotRole::kUpBias:
          networks[{slot.layer, slot.place}].up_bias = tensor;
          break;
        case SlotRole::kParameter:
          break;
      }
    }
    for (auto& [path, one] : factors) AddFactors(path, std::move(one));
    for (auto& [where, network] : networks) AddNetwork(where.first, where.second, std::move(network));
  }

  void AddScale(const std::string& path, const torch::Tensor& tensor, bool input) {
    model::Linear linear = linears_.at(path);
    (input ? linear->scale_in : linear->scale_out).push_back(tensor);
    tuning_.undo_.push_back(
        [linear, tensor, input]() mutable { EraseTensor(input ? &linear->scale_in : &linear->scale_out, tensor); });
  }

  void AddTokens(std::vector<torch::Tensor>* list, const torch::Tensor& tensor, bool prompt) {
    list->push_back(tensor);
    tuning_.undo_.push_back([model = tuning_.model_, tensor, prompt]() mutable {
      EraseTensor(prompt ? &model->slots().prompts : &model->slots().prefixes, tensor);
    });
  }

  void AddFactors(const std::string& path, model::LowRank factors) {
    model::Linear linear = linears_.at(path);
    factors.scaling = tuning_.config_.ScalingOf(path);
    if (use_ == Use::kFrozen) {
      const torch::Tensor a = factors.A;
      linear->stacked.push_back(std::move(factors));
      tuning_.undo_.push_back([linear, a]() mutable {
        std::erase_if(linear->stacked, [&a](const model::LowRank& one) { return one.A.is_same(a); });
      });
      return;
    }
    linear->lora_A = factors.A;
    linear->lora_B = factors.B;
    linear->magnitude = factors.magnitude;
    linear->scaling = factors.scaling;
    linear->dropout = tuning_.config_.lora_dropout;
    tuning_.undo_.push_back([linear]() mutable {
      linear->lora_A = linear->lora_B = linear->magnitude = torch::Tensor();
      linear->scaling = linear->dropout = 0;
    });
  }

  void AddNetwork(int64_t layer, SlotPlace place, model::Bottleneck network) {
    model::TuningSlots& slots = tuning_.model_->slots();
    if (slots.layers.empty()) slots.layers.resize(static_cast<size_t>(tuning_.model_->spec().num_hidden_layers));
    network.activation = ActivationOf(tuning_.config_.non_linearity);
    network.scaling = tuning_.config_.adapter_scaling;
    const auto list_of = [layer, place](model::TuningSlots& all) {
      model::LayerSlots& one = all.layers[static_cast<size_t>(layer)];
      if (place == SlotPlace::kAttention) return &one.after_attention;
      return place == SlotPlace::kMlp ? &one.after_mlp : &one.key_value;
    };
    const torch::Tensor down = network.down;
    list_of(slots)->push_back(std::move(network));
    tuning_.undo_.push_back([model = tuning_.model_, list_of, down]() mutable {
      std::erase_if(*list_of(model->slots()), [&down](const model::Bottleneck& one) { return one.down.is_same(down); });
    });
  }

  Tuning tuning_;
  const StateDict& tensors_;
  const Use use_;
  std::map<std::string, model::Linear> linears_;
  std::map<std::string, torch::Tensor> named_;
  std::vector<Slot> slots_;
  std::vector<BaseDelta> deltas_;
  std::vector<SparseDelta> sparse_;
  std::vector<torch::Tensor> sparse_values_;  // in their order
};

Result<Tuning> Tuning::Inject(model::Transformer model, const AdapterConfig& config, const StateDict& tensors,
                              Use use) {
  return Injector(std::move(model), config, tensors, use).Run();
}

StateDict Tuning::Extract() const {
  StateDict out;
  for (const TunedParameter& parameter : parameters_) {
    if (!parameter.key.starts_with(kHeddlePrefix)) out.emplace(parameter.key, ToStateTensor(parameter.tensor));
  }
  return out;
}

Status Tuning::Remove() {
  if (IsMerged(model_)) return FailedPrecondition("the model is merged: unmerge it before an adapter is removed");
  if (undo_.empty()) return FailedPrecondition("the adapter has been removed already");
  for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) (*step)();
  undo_.clear();
  parameters_.clear();
  return OkStatus();
}

Status Merge(model::Transformer& model) {
  const model::TuningSlots& slots = model->slots();
  const bool networks = std::any_of(slots.layers.begin(), slots.layers.end(), [](const model::LayerSlots& layer) {
    return !layer.after_attention.empty() || !layer.after_mlp.empty() || !layer.key_value.empty();
  });
  if (networks || !slots.prompts.empty() || !slots.prefixes.empty()) {
    return InvalidArgument("virtual tokens and networks beside the layers cannot be merged into weights");
  }
  for (auto& [path, linear] : model->LinearModules()) linear->Merge();
  return OkStatus();
}

void Unmerge(model::Transformer& model) {
  for (auto& [path, linear] : model->LinearModules()) linear->Unmerge();
}

Result<StateDict> MergedWeights(const std::shared_ptr<const model::BaseWeights>& base, const AdapterConfig& config,
                                const StateDict& tensors) {
  model::Transformer model(base);
  auto tuning = Tuning::Inject(model, config, tensors, Use::kFrozen);
  if (!tuning.ok()) return tuning.status();
  if (config.kind() == TuningKind::kBottleneck || IsPromptLearning(config.kind())) {
    return InvalidArgument("virtual tokens and networks beside the layers cannot be merged into weights");
  }
  StateDict merged;
  for (auto& parameter : model->named_parameters()) merged.emplace(parameter.key(), ToStateTensor(parameter.value()));
  for (auto& [path, linear] : model->LinearModules()) {
    const std::string name = path + ".weight";
    if (!linear->adapted()) {
      const torch::Tensor dense = linear->Dense(at::kFloat);
      if (!merged.contains(name)) merged[name] = ToStateTensor(linear->transposed ? dense.t() : dense);
      continue;
    }
    const auto [weight, bias] = linear->Merged();
    merged[name] = ToStateTensor(linear->transposed ? weight.t() : weight);
    if (bias.defined()) merged[path + ".bias"] = ToStateTensor(bias);
  }
  return merged;
}

Tensor ToStateTensor(const torch::Tensor& tensor) {
  torch::Tensor dense = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  return Tensor::FromFloats(Shape(dense.sizes().begin(), dense.sizes().end()),
                            {dense.data_ptr<float>(), static_cast<size_t>(dense.numel())});
}

torch::Tensor ToTorchTensor(const Tensor& tensor, const torch::Device& device) {
  torch::Tensor out = torch::empty(tensor.shape(), torch::kFloat32);
  if (!tensor.bytes().empty()) std::memcpy(out.data_ptr<float>(), tensor.bytes().data(), tensor.bytes().size());
  return out.to(device);
}

}  // namespace heddle::peft
