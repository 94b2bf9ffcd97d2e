#include "peft/split/half.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/assert.h"
#include "common/random.h"
#include "peft/adapter/initial.h"
#include "peft/adapter/slots.h"

namespace heddle::peft {
namespace {

using torch::Tensor;

constexpr char kOptimizerPrefix[] = "optimizer.";
constexpr char kStepsName[] = "optimizer.steps";

heddle::Tensor BytesOf(const Tensor& tensor, DType dtype) {
  const Tensor dense = tensor.detach().to(torch::kCPU).contiguous();
  std::span<std::byte> bytes;
  heddle::Tensor out = heddle::Tensor::Allocate({dtype, Shape(dense.sizes().begin(), dense.sizes().end())}, &bytes);
  if (!bytes.empty()) std::memcpy(bytes.data(), dense.data_ptr(), bytes.size());
  return out;
}

std::string MomentName(size_t i) { return kOptimizerPrefix + std::to_string(i); }

template <typename T>
Tensor ToLongs(const std::vector<T>& values, at::IntArrayRef sizes, const torch::Device& device) {
  Tensor out = torch::empty(sizes, torch::kLong);
  std::copy(values.begin(), values.end(), out.data_ptr<int64_t>());
  return out.to(device);
}

}  // namespace

Result<AdapterConfig> SideConfig(const protocol::SplitSide& side) {
  HEDDLE_ASSERT(side.trains(), "a side that trains something");
  HEDDLE_ASSIGN_OR_RETURN(AdapterConfig config, AdapterConfig::FromJson(side.AdapterConfigJson()));
  HEDDLE_RETURN_IF_ERROR(config.Validate());
  return config;
}

Result<StateDict> InitialSide(const model::BaseWeights& base, const protocol::SplitSide& side, uint64_t seed) {
  if (!side.trains()) return StateDict();
  HEDDLE_ASSIGN_OR_RETURN(const AdapterConfig config, SideConfig(side));
  HEDDLE_RETURN_IF_ERROR(CheckNames(base.spec.Whole(), config));
  StateDict weights;
  if (config.kind() == TuningKind::kFull || config.kind() == TuningKind::kBitFit) {
    for (const auto& [name, tensor] : base.tensors) weights.emplace(name, ToStateTensor(tensor));
  }
  return MakeInitialAdapter(base.spec, config, weights, seed);
}

Result<std::unique_ptr<SplitHalf>> SplitHalf::Make(std::shared_ptr<const model::BaseWeights> part,
                                                   const protocol::SplitSide& side, const StateDict& adapter,
                                                   const model::ComputeOptions& compute) {
  std::unique_ptr<SplitHalf> half(new SplitHalf(model::Transformer(std::move(part), compute), side));
  half->network_->train();
  if (!side.trains()) {
    if (adapter.empty()) return half;
    return InvalidArgument("an adapter is given for a side on which the plan trains nothing");
  }
  HEDDLE_ASSIGN_OR_RETURN(const AdapterConfig config, SideConfig(side));
  HEDDLE_ASSIGN_OR_RETURN(Tuning tuning, Tuning::Inject(half->network_, config, adapter));
  half->tuning_ = std::move(tuning);
  for (const TunedParameter& one : half->tuning_->parameters()) half->parameters_.push_back(one.tensor);
  HEDDLE_ASSIGN_OR_RETURN(const model::OptimizerKind kind, model::OptimizerKindFromName(side.optimizer));
  model::OptimizerOptions options;
  options.weight_decay = side.weight_decay;
  options.max_grad_norm = side.max_grad_norm;
  half->optimizer_ = model::MakeOptimizer(kind, half->parameters_, options);
  return half;
}

void SplitHalf::SeedDropout(uint64_t session_seed, uint32_t step, uint32_t micro) {
  network_->SeedDropout(DeriveSeed(session_seed, "split dropout", std::to_string(step) + "/" + std::to_string(micro)));
}

Status SplitHalf::FinishStep(uint32_t micros, uint64_t counted) {
  if (!optimizer_) return OkStatus();
  if (micros > 1 && counted > 0) {
    torch::NoGradGuard no_grad;
    for (Tensor& p : parameters_) {
      if (p.grad().defined()) p.mutable_grad().mul_(1.0 / static_cast<double>(counted));
    }
  }
  const double norm = optimizer_->Step(side_.learning_rate);
  if (std::isfinite(norm)) return OkStatus();
  return Internal("the gradient of a split step is not finite; a smaller learning_rate or max_grad_norm may help");
}

void SplitHalf::DropGradients() {
  for (Tensor& p : parameters_) p.mutable_grad() = Tensor();
}

void SplitHalf::CopyParameters(const SplitHalf& other) {
  HEDDLE_ASSERT(parameters_.size() == other.parameters_.size(), "halves of one side");
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].copy_(other.parameters_[i]);
}

void SplitHalf::MoveGradients(SplitHalf& other) {
  HEDDLE_ASSERT(parameters_.size() == other.parameters_.size(), "halves of one side");
  for (size_t i = 0; i < parameters_.size(); ++i) {
    other.parameters_[i].mutable_grad() = parameters_[i].grad();
    parameters_[i].mutable_grad() = Tensor();
  }
}

void SplitHalf::AddGradients(SplitHalf& other, double weight) {
  HEDDLE_ASSERT(parameters_.size() == other.parameters_.size(), "halves of one side");
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor mine = parameters_[i].grad();
    if (!mine.defined()) continue;
    Tensor& sum = other.parameters_[i].mutable_grad();
    sum = sum.defined() ? sum + weight * mine : weight * mine;
    parameters_[i].mutable_grad() = Tensor();
  }
}

void SplitHalf::SwapGradients(std::vector<Tensor>* aside) {
  aside->resize(parameters_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor mine = parameters_[i].grad();
    parameters_[i].mutable_grad() = (*aside)[i];
    (*aside)[i] = mine;
  }
}

void SplitHalf::AddAside(std::vector<Tensor>* aside) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < aside->size(); ++i) {
    if (!(*aside)[i].defined()) continue;
    Tensor& sum = parameters_[i].mutable_grad();
    sum = sum.defined() ? sum + (*aside)[i] : (*aside)[i];
  }
  aside->clear();
}

StateDict SplitHalf::Adapter() const { return tuning_ ? tuning_->Extract() : StateDict(); }

StateDict SplitHalf::Save() const {
  StateDict out = Adapter();
  if (!optimizer_) return out;
  const model::OptimizerState state = optimizer_->SaveState();
  out.emplace(kStepsName, BytesOf(torch::tensor({state.steps}, torch::kLong), DType::kI64));
  for (size_t i = 0; i < state.moments.size(); ++i) out.emplace(MomentName(i), BytesOf(state.moments[i], DType::kF32));
  return out;
}

Status SplitHalf::Restore(const StateDict& saved) {
  const auto lost = [](const std::string& what) { return DataLoss("a saved half of a split model " + what); };
  if (!optimizer_) return saved.empty() ? OkStatus() : lost("has tensors, but nothing is trained on its side");
  model::OptimizerState state;
  const auto steps = saved.find(kStepsName);
  if (steps == saved.end() || steps->second.spec() != TensorSpec{DType::kI64, {1}}) return lost("lacks its steps");
  state.steps = steps->second.values<int64_t>()[0];
  StateDictSpec expected = SpecOf(Adapter());
  const StateDictSpec found = SpecOf(saved);
  for (const auto& [name, spec] : expected) {
    const auto there = found.find(name);
    if (there == found.end() || there->second != spec) return lost("lacks " + name);
  }
  for (size_t i = 0; saved.contains(MomentName(i)); ++i) {
    const heddle::Tensor& moment = saved.find(MomentName(i))->second;
    if (moment.dtype() != DType::kF32) return lost("has a moment that is not F32");
    state.moments.push_back(ToTorchTensor(moment));
  }
  if (expected.size() + 1 + state.moments.size() != saved.size()) return lost("has tensors that are not its own");
  if (Status status = optimizer_->LoadState(state); !status.ok()) return lost("does not fit: " + status.message());
  torch::NoGradGuard no_grad;
  for (const TunedParameter& one : tuning_->parameters()) {
    Tensor here = one.tensor;
    here.copy_(ToTorchTensor(saved.find(one.key)->second));
  }
  DropGradients();
  return OkStatus();
}

StateDict Difference(const StateDict& trained, const StateDict& start) {
  StateDict out;
  for (const auto& [key, tensor] : trained) {
    const auto before = start.find(key);
    HEDDLE_ASSERT(before != start.end() && before->second.spec() == tensor.spec(), "adapters of one side");
    const auto now = tensor.values<float>(), then = before->second.values<float>();
    std::vector<float> moved(now.size());
    for (size_t i = 0; i < now.size(); ++i) moved[i] = now[i] - then[i];
    out.emplace(key, heddle::Tensor::FromFloats(tensor.shape(), moved));
  }
  return out;
}

Status PutTensor(const Tensor& x, protocol::CutEncoding encoding, protocol::TensorFrame* frame) {
  TORCH_CHECK(x.dim() == 3, "what crosses the cut is [batch, length, hidden]");
  const Tensor dense = x.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  frame->encoding = encoding;
  frame->rows = static_cast<uint32_t>(x.size(0));
  frame->length = static_cast<uint32_t>(x.size(1));
  frame->width = static_cast<uint32_t>(x.size(2));
  frame->tensor.clear();
  return protocol::EncodeTensor(encoding, {dense.data_ptr<float>(), static_cast<size_t>(dense.numel())}, frame->width,
                                &frame->tensor);
}

Result<Tensor> TakeTensor(const protocol::TensorFrame& frame, at::ScalarType type, const torch::Device& device) {
  Tensor out = torch::empty({frame.rows, frame.length, frame.width}, torch::kFloat32);
  HEDDLE_RETURN_IF_ERROR(protocol::DecodeTensor(frame.encoding, frame.tensor, frame.width,
                                                {out.data_ptr<float>(), static_cast<size_t>(out.numel())}));
  return out.to(device, type);
}

Status PutInput(const model::ModelInput& input, const Tensor& targets, protocol::TensorFrame* frame) {
  if (input.positions.defined() && !input.segments.defined()) {
    return InvalidArgument("positions of rows that are not packed do not cross a cut");
  }
  const auto longs = [](const Tensor& t) { return t.to(torch::kCPU, torch::kLong).contiguous(); };
  if (input.mask.defined()) {
    const Tensor mask = longs(input.mask.ne(0));
    frame->mask.assign(mask.data_ptr<int64_t>(), mask.data_ptr<int64_t>() + mask.numel());
  }
  if (input.segments.defined()) {
    const Tensor segments = longs(input.segments);
    if (segments.min().item<int64_t>() < 0 || segments.max().item<int64_t>() > 65'535) {
      return InvalidArgument("a batch has more than 65536 packed sequences");
    }
    frame->segments.assign(segments.data_ptr<int64_t>(), segments.data_ptr<int64_t>() + segments.numel());
  }
  if (!targets.defined()) return OkStatus();
  if (at::isFloatingType(targets.scalar_type())) {
    const Tensor grades = targets.to(torch::kCPU, torch::kFloat32).contiguous();
    frame->grades.assign(grades.data_ptr<float>(), grades.data_ptr<float>() + grades.numel());
    return OkStatus();
  }
  const Tensor whole = longs(targets);
  for (int64_t i = 0; i < whole.numel(); ++i) {
    const int64_t target = whole.data_ptr<int64_t>()[i];
    if (target < INT32_MIN || target > INT32_MAX) return InvalidArgument("a target does not fit 32 bits");
    frame->targets.push_back(static_cast<int32_t>(target));
  }
  return OkStatus();
}

model::ModelInput TakeInput(const protocol::TensorFrame& frame, const torch::Device& device) {
  model::ModelInput input;
  const std::array<int64_t, 2> sizes = {frame.rows, frame.length};
  if (!frame.mask.empty()) input.mask = ToLongs(frame.mask, sizes, device);
  if (!frame.segments.empty()) input.segments = ToLongs(frame.segments, sizes, device);
  return input;
}

Tensor TakeTargets(const protocol::TensorFrame& frame, const torch::Device& device) {
  if (!frame.grades.empty()) {
    return torch::tensor(std::vector<double>(frame.grades.begin(), frame.grades.end()), torch::kFloat64).to(device);
  }
  if (frame.targets.empty()) return {};
  if (frame.targets.size() == frame.rows) return ToLongs(frame.targets, {int64_t{frame.rows}}, device);
  return ToLongs(frame.targets, {int64_t{frame.rows}, int64_t{frame.length}}, device);
}

}  // namespace heddle::peft
