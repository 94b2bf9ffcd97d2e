#include "coordinator/split/session.h"

#include <algorithm>
#include <cmath>

#include "common/assert.h"

namespace heddle::coordinator {

using protocol::FrameKind;
using protocol::TensorFrame;
using torch::Tensor;

namespace {

// Its square is a float still, which AdamW keeps of it.
constexpr double kLargestGradient = 1e18;

bool IsWordTask(const model::ModelSpec& spec) {
  return spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm;
}

}  // namespace

// What a device says that its tokens or rows should be: nothing that the head could stumble over.
Status SplitSession::CheckTargets(const TensorFrame& frame) const {
  const model::ModelSpec& spec = half_->network()->spec();
  const bool words = IsWordTask(spec), grade = !words && spec.num_labels == 1;
  const uint64_t expected = words ? frame.tokens() : frame.rows;
  if ((grade ? frame.grades.size() : frame.targets.size()) != expected) {
    return InvalidArgument("activations came without the targets that the head needs");
  }
  const int64_t end = words ? spec.vocab_size : spec.num_labels;
  uint64_t counted = grade ? expected : 0;
  for (const int32_t target : frame.targets) {
    const bool ignored = words && target == -100;
    if (!ignored && (target < 0 || target >= end)) {
      return InvalidArgument("a target is " + std::to_string(target) + ", and the head knows " + std::to_string(end));
    }
    counted += ignored ? 0 : 1;
  }
  if (counted == frame.counted) return OkStatus();
  return InvalidArgument("a frame says that " + std::to_string(frame.counted) + " targets count, and " +
                         std::to_string(counted) + " do");
}

Result<TensorFrame> SplitSession::Answer(const TensorFrame& request) {
  return Finish(request, request.kind == FrameKind::kActivations ? Forward(request) : Backward(request));
}

// Fills the answer in, and ends the step after its last request.
Result<TensorFrame> SplitSession::Finish(const TensorFrame& request, Result<TensorFrame> answer) {
  if (!answer.ok()) return answer;
  broken_ = true;  // until the end of this
  const protocol::SplitSchedule::Place place = plan_.schedule().At(request.sequence);
  answer->kind = place.answer;
  answer->session = id_;
  answer->sequence = request.sequence;
  answer->step = request.step;
  answer->micro = request.micro;
  answer->micros = request.micros;
  answer->counted = request.counted;
  if (place.answer == FrameKind::kGradient) counted_ += request.counted;
  if (place.ends_step) HEDDLE_RETURN_IF_ERROR(EndStep());
  broken_ = false;
  return answer;
}

// Changes nothing.
Result<SplitSession::Micro> SplitSession::Open(const TensorFrame& request) const {
  if (request.counted > request.tokens()) return InvalidArgument("more targets count than there are tokens");
  if (!request.segments.empty() && !half_->network()->spec().causal) {
    return InvalidArgument("activations came with segments of packed rows, which only a causal model takes");
  }
  if (!plan_.u_shaped()) HEDDLE_RETURN_IF_ERROR(CheckTargets(request));
  model::Transformer& network = half_->network();
  Micro micro;
  HEDDLE_ASSIGN_OR_RETURN(micro.x, peft::TakeTensor(request, network->compute().type, network->device()));
  micro.input = peft::TakeInput(request, network->device());
  micro.x.requires_grad_(true);
  return micro;
}

// A step's first micro-batch begins it. Dropout masks are those of this micro-batch from now on.
void SplitSession::BeginMicro(uint32_t step, uint32_t micro) {
  if (micro == 0) {
    half_->DropGradients();
    counted_ = 0;
    if (shared_ != nullptr) half_->CopyParameters(*shared_);
  }
  half_->SeedDropout(seed_, step, micro);
}

Result<TensorFrame> SplitSession::Forward(const TensorFrame& request) {
  HEDDLE_ASSIGN_OR_RETURN(Micro micro, Open(request));
  BeginMicro(request.step, request.micro);
  micro.hidden = half_->network()->Middle(micro.x, micro.input);
  TensorFrame answer;
  if (plan_.u_shaped()) {
    HEDDLE_RETURN_IF_ERROR(peft::PutTensor(micro.hidden, plan_.encoding, &answer));
    micros_.insert_or_assign(request.micro, std::move(micro));
    return answer;
  }
  double value = 0;
  HEDDLE_ASSIGN_OR_RETURN(const Tensor loss, HeadLoss(request, micro, &value));
  broken_ = true;
  if (request.counted > 0) loss.backward();
  return Gradient(micro.x, value);
}

// Of several micro-batches in a step, each counts as its targets.
Result<Tensor> SplitSession::HeadLoss(const TensorFrame& request, const Micro& micro, double* value) {
  model::Transformer& network = half_->network();
  Tensor targets = peft::TakeTargets(request, network->device());
  if (IsWordTask(network->spec())) targets = targets.view({int64_t{request.rows}, int64_t{request.length}});
  const Tensor loss = network->TailLoss(micro.hidden, micro.input, targets);
  *value = loss.item<double>();
  if (!std::isfinite(*value)) return Internal("the loss of a split step is not finite");
  return request.micros > 1 ? loss * static_cast<double>(request.counted) : loss;
}

Result<TensorFrame> SplitSession::Gradient(const Tensor& x, double loss) const {
  TensorFrame answer;
  answer.loss = loss;
  const Tensor gradient = x.grad().defined() ? x.grad() : torch::zeros_like(x);
  HEDDLE_RETURN_IF_ERROR(peft::PutTensor(gradient, plan_.gradient_encoding, &answer));
  return answer;
}

Result<Tensor> SplitSession::OpenGradient(const TensorFrame& request) const {
  const auto found = micros_.find(request.micro);
  if (found == micros_.end() || request.rows != found->second.hidden.size(0) ||
      request.length != found->second.hidden.size(1)) {
    return InvalidArgument("a tail gradient is not of the shape of the hidden states that it is the gradient of");
  }
  const Tensor& hidden = found->second.hidden;
  return peft::TakeTensor(request, hidden.scalar_type(), hidden.device());
}

Result<TensorFrame> SplitSession::Backward(const TensorFrame& request) {
  HEDDLE_ASSIGN_OR_RETURN(const Tensor gradient, OpenGradient(request));
  Micro& micro = micros_.at(request.micro);
  broken_ = true;
  if (micro.joint && micro.joint->spent) {  // the others did not wait: once more, alone
    half_->SeedDropout(seed_, request.step, request.micro);
    micro.x = micro.x.detach().requires_grad_(true);
    micro.hidden = half_->network()->Middle(micro.x, micro.input);
    micro.joint = nullptr;
  }
  if (micro.joint) micro.joint->spent = true;
  micro.hidden.backward(gradient);
  auto answer = Gradient(micro.x, request.loss);
  micros_.erase(request.micro);
  return answer;
}

const void* SplitSession::Pass(uint32_t micro) const {
  const auto found = micros_.find(micro);
  if (found == micros_.end() || !found->second.joint || found->second.joint->spent) return nullptr;
  return found->second.joint.get();
}

Status SplitSession::EndStep() {
  if (held_) {
    contributed_ = true;
    return OkStatus();
  }
  if (shared_ == nullptr) return half_->FinishStep(plan_.gradient_accumulation_steps, counted_);
  if (!GradientFits()) {
    return InvalidArgument(
        "the gradient of a split step is not finite, or too large for a step of the part that all devices share; a "
        "smaller learning_rate or max_grad_norm may help");
  }
  half_->MoveGradients(*shared_);
  return shared_->FinishStep(plan_.gradient_accumulation_steps, counted_);
}

bool SplitSession::GradientFits() const {
  std::vector<Tensor> gradients, largest;
  half_->SwapGradients(&gradients);
  for (const Tensor& gradient : gradients) {
    if (gradient.defined() && gradient.numel() > 0) largest.push_back(gradient.abs().max().to(torch::kFloat32));
  }
  const double most = largest.empty() ? 0 : torch::stack(largest).max().item<double>();
  half_->SwapGradients(&gradients);
  // Of several micro-batches it is still a sum.
  const double targets = plan_.gradient_accumulation_steps > 1 ? std::max(1.0, static_cast<double>(counted_)) : 1;
  const protocol::SplitSide& side = plan_.server;
  double limit = kLargestGradient;
  if (side.optimizer == "SGD" && side.max_grad_norm == 0) limit = std::min(limit, plan_.max_abs / side.learning_rate);
  return most / targets <= limit;  // NaN is not
}

void SplitSession::TakeContribution(double weight) {
  HEDDLE_ASSERT(contributed_ && shared_ != nullptr, "a step is over");
  half_->AddGradients(*shared_, weight);
  contributed_ = false;
}

}  // namespace heddle::coordinator
