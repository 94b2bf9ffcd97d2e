#include "model/transformer/transformer.h"

#include <ATen/CPUGeneratorImpl.h>

#include "common/random.h"
#include "model/config/rotary.h"
#include "model/transformer/attention.h"
#include "model/transformer/blocks.h"
#include "model/transformer/checkpoint.h"
#include "model/transformer/functions.h"
#include "model/transformer/heads.h"

namespace heddle::model {

using torch::Tensor;

namespace {

// A generator that draws where the tensors are.
at::Generator GeneratorOn(const torch::Device& device, uint64_t seed) {
  if (device.is_cpu()) return at::make_generator<at::CPUGeneratorImpl>(seed);
  at::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(seed);
  return generator;
}

}  // namespace

struct TransformerImpl::Body {
  Body(torch::nn::Module* root, const ModelSpec& spec_in, const WeightSource& source, const ComputeOptions& options_in,
       std::shared_ptr<const BaseWeights> base_in)
      : spec(spec_in),
        options(options_in),
        base(std::move(base_in)),
        tree(root, spec, source),
        embeddings(tree, spec),
        layers(MakeLayers()),
        final_norm(tree, spec, spec.part.head ? spec.final_norm : std::string()),
        head(tree, spec, embeddings.tokens()) {}

  std::vector<Layer> MakeLayers() {
    std::vector<Layer> out;
    for (const int64_t i : spec.Layers()) out.emplace_back(tree, spec, i);
    return out;
  }

  const ModelSpec spec;
  ComputeOptions options;
  const std::shared_ptr<const BaseWeights> base;  // null when pretraining
  ModuleTree tree;
  Embeddings embeddings;
  std::vector<Layer> layers;
  Norm final_norm;
  Head head;
  TuningSlots slots;
  Tensor cos, sin;            // [positions so far, rotary dims / 2]
  int64_t rotary_length = 0;  // that the tables were made for

  // What stands before the tokens of a pass: those of the cache and, where that is empty, the virtual ones.
  struct Before {
    int64_t past = 0;                   // in the cache
    int64_t prefixes = 0, prompts = 0;  // of this pass
    int64_t virtual_tokens = 0;         // of the sequence, in the cache or not
  };
  void CheckInput(const ModelInput& input, const Before& before) const;
  void PrepareRotary(int64_t length, const at::Device& device);
  Tensor Positions(const ModelInput& input, const Before& before) const;
  // The mask and the segments of all tokens.
  ModelInput Extended(const ModelInput& input, const Before& before, KvCache* cache) const;
  Pass MakePass(const ModelInput& input, const Tensor& positions, const Tensor& x, const Before& before);
  // Of this part's layers, by their place in it.
  struct Range {
    size_t first = 0, end = SIZE_MAX;
    int64_t rows = 0;  // that the last layer gives; 0: all
  };
  Tensor RunLayers(Tensor x, const Pass& pass, std::vector<Tensor>* trace, const Range& range);
  // Of the rows of Run, those of the input's own tokens.
  Tensor Own(const Tensor& hidden, const ModelInput& input) const;
  ModelInput HeadInput(const ModelInput& input) const;
  // The residual stream after the layers, or the first `layers` of them.
  Tensor Stream(const ModelInput& input, std::vector<Tensor>* trace, KvCache* cache = nullptr,
                size_t layers = SIZE_MAX);
  // The final norm's output.
  Tensor Run(const ModelInput& input, std::vector<Tensor>* trace, KvCache* cache = nullptr);
  Tensor Middle(const Tensor& x, const ModelInput& input, size_t after);
  size_t CountOf(int64_t layers) const;
  // Of the last layer's rows, so many of the first are all that the head reads; 0: it may read any.
  int64_t RowsOfHead() const;
  void CheckStream(const Tensor& x) const;
};

void TransformerImpl::Body::CheckInput(const ModelInput& input, const Before& before) const {
  if (spec.TakesImages()) return;
  const Tensor& ids = input.ids;
  TORCH_CHECK(ids.defined() && ids.dim() == 2 && ids.scalar_type() == at::kLong, "ids must be int64 [batch, length]");
  const int64_t length = before.past + before.prefixes + before.prompts + ids.size(1);
  TORCH_CHECK(ids.size(1) >= 1 && length <= spec.MaxLength(), "a sequence of ", length,
              " tokens does not fit a model of ", spec.MaxLength(), " positions");
  const auto shaped = [&ids](const Tensor& tensor, const char* name) {
    TORCH_CHECK(!tensor.defined() || tensor.sizes() == ids.sizes(), name, " must be shaped like ids");
  };
  shaped(input.mask, "the mask");
  shaped(input.types, "the token types");
  shaped(input.positions, "the positions");
  shaped(input.segments, "the segments");
  TORCH_CHECK(!input.segments.defined() || spec.causal, "only causal models take packed sequences");
}

// Grows the rotary tables to `length` positions; in double, rounded once.
void TransformerImpl::Body::PrepareRotary(int64_t length, const at::Device& device) {
  const bool per_length = spec.rotary.scaling == RotaryScaling::kDynamic;
  const auto type = options.type == at::kDouble ? at::kDouble : at::kFloat;
  if (cos.defined() && cos.scalar_type() == type && cos.device() == device &&
      (per_length ? rotary_length == length : cos.size(0) >= length)) {
    return;
  }
  int64_t positions = 64;
  while (positions < length) positions *= 2;
  RotaryTable table = RotaryFrequencies(spec, length);
  const auto pairs = static_cast<int64_t>(table.frequencies.size());
  const Tensor frequency = torch::from_blob(table.frequencies.data(), {pairs}, at::kDouble);
  const Tensor angle = at::outer(at::arange(positions, at::kDouble), frequency);
  cos = (angle.cos() * table.magnitude).to(at::TensorOptions(type).device(device)).contiguous();
  sin = (angle.sin() * table.magnitude).to(at::TensorOptions(type).device(device)).contiguous();
  rotary_length = length;
}

// Those given, or, of packed sequences, counted from the start of each; else undefined. Virtual tokens stand before
// each sequence.
Tensor TransformerImpl::Body::Positions(const ModelInput& input, const Before& before) const {
  Tensor own;
  if (input.positions.defined()) {
    const int64_t end = spec.MaxLength() - before.virtual_tokens;
    const bool fits = input.positions.ge(0).logical_and(input.positions.lt(end)).all().item<bool>();
    TORCH_CHECK(fits, "positions must be from 0 to below ", end);
    own = input.positions;
  } else if (input.segments.defined()) {
    const Tensor index = at::arange(input.ids.size(1), input.ids.options()).expand_as(input.ids);
    Tensor starts = at::ones_like(input.ids);
    const int64_t length = input.ids.size(1);
    starts.slice(1, 1).copy_(input.segments.slice(1, 1).ne(input.segments.slice(1, 0, length - 1)));
    own = index - std::get<0>((starts * index).cummax(1));
  }
  if (!own.defined() || before.virtual_tokens == 0) return own;
  own = own + before.virtual_tokens;
  if (before.prompts == 0) return own;
  const Tensor first = at::arange(before.prefixes, before.prefixes + before.prompts, own.options());
  return at::cat({first.expand({own.size(0), before.prompts}), own}, 1);
}

ModelInput TransformerImpl::Body::Extended(const ModelInput& given, const Before& before, KvCache* cache) const {
  ModelInput input = given;
  const int64_t added = before.prefixes + before.prompts;
  const auto ones = [&](int64_t n) { return at::ones({input.ids.size(0), n}, input.ids.options()); };
  if (cache != nullptr && (input.mask.defined() || cache->mask.defined())) {
    const Tensor known = cache->mask.defined() ? cache->mask : ones(before.past + added);
    input.mask = at::cat({known, input.mask.defined() ? input.mask.to(at::kLong) : ones(input.ids.size(1))}, 1);
    cache->mask = input.mask;
  } else if (input.mask.defined() && added > 0) {
    input.mask = at::cat({ones(added), input.mask.to(at::kLong)}, 1);
  }
  if (input.segments.defined() && added > 0) {
    input.segments = at::cat({at::zeros({input.ids.size(0), added}, input.segments.options()), input.segments}, 1);
  }
  return input;
}

Pass TransformerImpl::Body::MakePass(const ModelInput& input, const Tensor& positions, const Tensor& x,
                                     const Before& before) {
  Pass pass;
  const int64_t length = x.size(1), past = before.past + before.prefixes;
  if (spec.rotary.on) {
    // Of dynamic scaling too it is the largest position that counts, as in Hugging Face, not the row's length.
    PrepareRotary(positions.defined() ? positions.max().item<int64_t>() + 1 : past + length, x.device());
    pass.cos = positions.defined() ? cos.index({positions}) : cos.slice(0, past, past + length);
    pass.sin = positions.defined() ? sin.index({positions}) : sin.slice(0, past, past + length);
  }
  MaskSpec mask{length, past + length, spec.causal, 0, input.mask, input.segments, before.prefixes + before.prompts};
  pass.mask = AttentionMask(mask, x.options().requires_grad(false));
  mask.window = spec.sliding_window;
  if (mask.window > 0) pass.window_mask = AttentionMask(mask, x.options().requires_grad(false));
  pass.slots = &slots;
  pass.with_prefix = before.prefixes > 0;
  return pass;
}

Tensor TransformerImpl::Body::RunLayers(Tensor x, const Pass& given, std::vector<Tensor>* trace, const Range& range) {
  Pass pass = given;
  if (trace != nullptr) trace->push_back(x);
  for (size_t i = range.first; i < std::min(range.end, layers.size()); ++i) {
    Layer& layer = layers[i];
    pass.rows = i + 1 == layers.size() ? range.rows : 0;
    if (options.checkpoint_layers && pass.cache == nullptr) {
      std::vector<at::Generator> generators;
      for (const Linear& linear : layer.linears()) {
        const bool draws = linear->lora_A.defined() && linear->dropout > 0 && linear->is_training();
        if (draws && linear->dropout_generator.defined()) generators.push_back(linear->dropout_generator);
      }
      x = Checkpoint([&layer, pass](const Tensor& in) { return layer(in, pass); }, x, generators);
    } else {
      x = layer(x, pass);
    }
    if (trace != nullptr) trace->push_back(x);
  }
  return x;
}

// The residual stream on the way goes to `trace` when given.
Tensor TransformerImpl::Body::Stream(const ModelInput& given, std::vector<Tensor>* trace, KvCache* cache,
                                     size_t layers_to_run) {
  Before before;
  before.past = cache == nullptr ? 0 : cache->length;
  const int64_t prefixes = slots.PrefixTokens(), prompts = slots.PromptTokens();
  before.virtual_tokens = prefixes + prompts;
  if (before.past == 0) {
    before.prefixes = prefixes;
    before.prompts = prompts;
  }
  CheckInput(given, before);
  const bool images = spec.TakesImages();
  const ModelInput input = images ? given : Extended(given, before, cache);
  const Tensor positions = images ? Tensor() : Positions(given, before);
  Tensor virtual_tokens;
  if (before.prompts > 0) {
    virtual_tokens = slots.Prompts(images ? input.pixels.size(0) : input.ids.size(0), options.type);
  }
  const Tensor x = embeddings(input, virtual_tokens, positions, before.past + before.prefixes, options.type);
  Pass pass = MakePass(input, positions, x, before);
  pass.cache = cache;
  Tensor hidden = RunLayers(x, pass, trace, {0, layers_to_run});
  if (cache != nullptr) cache->length += before.prefixes + x.size(1);
  return hidden;
}

Tensor TransformerImpl::Body::Run(const ModelInput& input, std::vector<Tensor>* trace, KvCache* cache) {
  TORCH_CHECK(spec.ComputesAlone(), "a model that is cut computes in pieces");
  return final_norm(Stream(input, trace, cache));
}

void TransformerImpl::Body::CheckStream(const Tensor& x) const {
  TORCH_CHECK(
      x.defined() && x.dim() == 3 && x.size(0) >= 1 && x.size(2) == spec.hidden_size && x.scalar_type() == options.type,
      "what crosses the cut must be [batch, length, ", spec.hidden_size, "] in the type of computation");
  TORCH_CHECK(x.size(1) >= 1 && x.size(1) <= spec.MaxLength(), "a sequence of ", x.size(1),
              " tokens does not fit a model of ", spec.MaxLength(), " positions");
}

// Virtual tokens are refused on a part (peft/adapter/slots.h), so nothing stands before the tokens.
Tensor TransformerImpl::Body::Middle(const Tensor& x, const ModelInput& given, size_t after) {
  CheckStream(x);
  ModelInput input = given;
  // The ids are not here: the other side has looked them up. Their shape is needed.
  if (!spec.TakesImages()) input.ids = at::zeros({x.size(0), x.size(1)}, x.options().dtype(at::kLong));
  CheckInput(input, {});
  const Pass pass = MakePass(input, spec.TakesImages() ? Tensor() : Positions(input, {}), x, {});
  return RunLayers(x, pass, nullptr, {after, SIZE_MAX, spec.part.embeddings ? RowsOfHead() : 0});
}

int64_t TransformerImpl::Body::RowsOfHead() const {
  if (!spec.part.head || spec.head.pooling != Pooling::kFirst) return 0;
  return spec.head.second_output.empty() ? 1 : 2;
}

size_t TransformerImpl::Body::CountOf(int64_t count) const {
  TORCH_CHECK(count >= 0 && static_cast<size_t>(count) <= layers.size(), "this part of the model has ", layers.size(),
              " layers, not ", count);
  TORCH_CHECK(slots.prompts.empty() && slots.prefixes.empty(), "virtual tokens do not cross a cut");
  return static_cast<size_t>(count);
}

Tensor TransformerImpl::Body::Own(const Tensor& hidden, const ModelInput& input) const {
  const bool words = spec.head.task == Task::kCausalLm || spec.head.task == Task::kMaskedLm;
  if (!words || slots.prompts.empty()) return hidden;
  return hidden.slice(1, hidden.size(1) - input.ids.size(1));
}

// What a head that looks for the last token may see: the mask of all rows.
ModelInput TransformerImpl::Body::HeadInput(const ModelInput& input) const {
  ModelInput out = input;
  const int64_t prompts = slots.PromptTokens();
  if (prompts == 0 || !input.mask.defined()) return out;
  const bool words = spec.head.task == Task::kCausalLm || spec.head.task == Task::kMaskedLm;
  if (!words) out.mask = at::cat({at::ones({input.mask.size(0), prompts}, input.mask.options()), input.mask}, 1);
  return out;
}

TransformerImpl::TransformerImpl(std::shared_ptr<const BaseWeights> base, const ComputeOptions& options) {
  WeightSource source;
  // These share the storage, and keep autograd's bookkeeping of one module away from the others'. A detached tensor
  // would still share its counter of changes: a task that trains a head would spoil the backward pass of its neighbour.
  source.dense = [&base](const std::string& name) {
    const auto found = base->tensors.find(name);
    return found == base->tensors.end() ? Tensor() : found->second.variable_data();
  };
  source.packed = [&base](const std::string& name) {
    const auto found = base->packed.find(name);
    return found == base->packed.end() ? nullptr : found->second;
  };
  body_ = std::make_shared<Body>(this, base->spec, source, options, base);
}

TransformerImpl::TransformerImpl(const ModelSpec& spec, uint64_t seed, const ComputeOptions& options) {
  const StateDictSpec parameters = spec.WeightSpec();
  WeightSource source;
  source.trainable = true;
  source.dense = [&parameters, seed](const std::string& name) {
    const auto parameter = parameters.find(name);
    if (parameter == parameters.end()) return Tensor();  // of another part
    const Shape& shape = parameter->second.shape;
    if (name.ends_with(".bias")) return at::zeros(shape);
    if (shape.size() == 1) return at::ones(shape);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(DeriveSeed(seed, "initial_weights", name));
    return at::normal(0.0, 0.02, shape, generator);
  };
  body_ = std::make_shared<Body>(this, spec, source, options, nullptr);
}

TransformerImpl::~TransformerImpl() = default;

Tensor TransformerImpl::forward(const ModelInput& input) {
  return body_->head.Logits(body_->Own(body_->Run(input, nullptr), input), body_->HeadInput(input));
}

Tensor TransformerImpl::Loss(const ModelInput& input, const Tensor& targets) {
  return body_->head.Loss(body_->Own(body_->Run(input, nullptr), input), body_->HeadInput(input), targets);
}

Tensor TransformerImpl::Hidden(const ModelInput& input) { return body_->Own(body_->Run(input, nullptr), input); }

Tensor TransformerImpl::Pooled(const ModelInput& input) {
  TORCH_CHECK(body_->spec.head.task != Task::kNone || body_->head.has_pooler(), "the model has no pooler");
  return body_->head.Pooled(body_->Own(body_->Run(input, nullptr), input), body_->HeadInput(input));
}

Tensor TransformerImpl::Front(const ModelInput& input) {
  TORCH_CHECK(body_->spec.part.embeddings && body_->slots.prompts.empty() && body_->slots.prefixes.empty(),
              "a front needs the embeddings, and takes no virtual tokens");
  return body_->Stream(input, nullptr);
}

Tensor TransformerImpl::Front(const ModelInput& input, int64_t layers) {
  TORCH_CHECK(body_->spec.part.embeddings, "a front needs the embeddings");
  return body_->Stream(input, nullptr, nullptr, body_->CountOf(layers));
}

Tensor TransformerImpl::Middle(const Tensor& x, const ModelInput& input) {
  TORCH_CHECK(!body_->spec.part.embeddings, "this part of the model begins with ids");
  return body_->Middle(x, input, 0);
}

Tensor TransformerImpl::Middle(const Tensor& x, const ModelInput& input, int64_t after) {
  return body_->Middle(x, input, body_->CountOf(after));
}

Tensor TransformerImpl::TailLogits(const Tensor& x, const ModelInput& input) {
  TORCH_CHECK(body_->spec.part.head, "this part of the model has no head");
  body_->CheckStream(x);
  return body_->head.Logits(body_->final_norm(x), input);
}

Tensor TransformerImpl::TailLoss(const Tensor& x, const ModelInput& input, const Tensor& targets) {
  TORCH_CHECK(body_->spec.part.head, "this part of the model has no head");
  body_->CheckStream(x);
  return body_->head.Loss(body_->final_norm(x), input, targets);
}

std::vector<Tensor> TransformerImpl::HiddenStates(const ModelInput& input) {
  std::vector<Tensor> trace;
  body_->Run(input, &trace);
  return trace;
}

Tensor TransformerImpl::Decode(const ModelInput& input, KvCache* cache) {
  TORCH_CHECK(body_->spec.causal && body_->spec.head.task == Task::kCausalLm, body_->spec.architecture,
              " does not generate text");
  TORCH_CHECK(!input.segments.defined(), "packed sequences are for training");
  torch::NoGradGuard no_grad;
  cache->keys.resize(static_cast<size_t>(body_->spec.num_hidden_layers));  // by the layers' own numbers
  cache->values.resize(static_cast<size_t>(body_->spec.num_hidden_layers));
  const Tensor hidden = body_->Run(input, nullptr, cache);
  return body_->head.Logits(hidden.slice(1, hidden.size(1) - 1), input).squeeze(1);
}

void TransformerImpl::SeedDropout(uint64_t seed) {
  for (auto& [path, linear] : body_->tree.linears()) {
    const uint64_t own = DeriveSeed(seed, "dropout", path);
    if (linear->dropout_generator.defined()) {
      // The same object: a layer that is computed again sets it back to what it was for that pass.
      linear->dropout_generator.set_current_seed(own);
    } else {
      linear->dropout_generator = GeneratorOn(linear->device(), own);
    }
  }
}

std::map<std::string, Linear> TransformerImpl::LinearModules() const { return body_->tree.linears(); }

TuningSlots& TransformerImpl::slots() { return body_->slots; }

const TuningSlots& TransformerImpl::slots() const { return body_->slots; }

const std::shared_ptr<const BaseWeights>& TransformerImpl::base() const { return body_->base; }

const ModelSpec& TransformerImpl::spec() const { return body_->spec; }

torch::Device TransformerImpl::device() const {
  if (!body_->layers.empty()) return body_->layers[0].linears()[0]->device();
  return body_->embeddings.tokens().defined() ? body_->embeddings.tokens().device() : torch::kCPU;
}

void TransformerImpl::SetCompute(const ComputeOptions& options) { body_->options = options; }

const ComputeOptions& TransformerImpl::compute() const { return body_->options; }

}  // namespace heddle::model
