#include "coordinator/split/session.h"

#include <cmath>

namespace heddle::coordinator {

using protocol::FrameKind;
using protocol::TensorFrame;
using torch::Tensor;

namespace {

bool IsWordTask(const model::ModelSpec& spec) {
  return spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm;
}

// What a device says that its tokens or rows should be: nothing that the head could stumble over.
Status CheckTargets(const model::ModelSpec& spec, const TensorFrame& frame) {
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

}  // namespace

Result<TensorFrame> SplitSession::Answer(const TensorFrame& request) {
  auto answer = request.kind == FrameKind::kActivations ? Forward(request) : Backward(request);
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

Result<TensorFrame> SplitSession::Forward(const TensorFrame& request) {
  if (request.counted > request.tokens()) return InvalidArgument("more targets count than there are tokens");
  model::Transformer& network = half_->network();
  HEDDLE_ASSIGN_OR_RETURN(Tensor x, peft::TakeTensor(request, network->compute().type, network->device()));
  const model::ModelInput input = peft::TakeInput(request, network->device());
  if (request.micro == 0) {  // the step begins
    half_->DropGradients();
    counted_ = 0;
    if (shared_ != nullptr) half_->CopyParameters(*shared_);
  }
  x.requires_grad_(true);
  half_->SeedDropout(seed_, request.step, request.micro);
  const Tensor hidden = network->Middle(x, input);
  TensorFrame answer;
  if (plan_.u_shaped()) {
    HEDDLE_RETURN_IF_ERROR(peft::PutTensor(hidden, plan_.encoding, &answer));
    activations_ = x;
    hidden_ = hidden;
    return answer;
  }
  return HeadLoss(request, x, hidden, input);
}

Result<TensorFrame> SplitSession::HeadLoss(const TensorFrame& request, const Tensor& x, const Tensor& hidden,
                                           const model::ModelInput& input) {
  model::Transformer& network = half_->network();
  HEDDLE_RETURN_IF_ERROR(CheckTargets(network->spec(), request));
  Tensor targets = peft::TakeTargets(request, network->device());
  if (IsWordTask(network->spec())) targets = targets.view({int64_t{request.rows}, int64_t{request.length}});
  Tensor loss = network->TailLoss(hidden, input, targets);
  TensorFrame answer;
  answer.loss = loss.item<double>();
  if (!std::isfinite(answer.loss)) return Internal("the loss of a split step is not finite");
  broken_ = true;
  if (request.micros > 1) loss = loss * static_cast<double>(request.counted);
  if (request.counted > 0) loss.backward();
  const Tensor gradient = x.grad().defined() ? x.grad() : torch::zeros_like(x);
  HEDDLE_RETURN_IF_ERROR(peft::PutTensor(gradient, plan_.gradient_encoding, &answer));
  return answer;
}

Result<TensorFrame> SplitSession::Backward(const TensorFrame& request) {
  if (!hidden_.defined() || request.tokens() != static_cast<uint64_t>(hidden_.size(0) * hidden_.size(1)) ||
      request.rows != hidden_.size(0)) {
    return InvalidArgument("a tail gradient is not of the shape of the hidden states that it is the gradient of");
  }
  HEDDLE_ASSIGN_OR_RETURN(const Tensor gradient, peft::TakeTensor(request, hidden_.scalar_type(), hidden_.device()));
  broken_ = true;
  hidden_.backward(gradient);
  TensorFrame answer;
  answer.loss = request.loss;
  HEDDLE_RETURN_IF_ERROR(peft::PutTensor(activations_.grad(), plan_.gradient_encoding, &answer));
  activations_ = hidden_ = Tensor();
  return answer;
}

Status SplitSession::EndStep() {
  if (shared_ == nullptr) return half_->FinishStep(plan_.gradient_accumulation_steps, counted_);
  half_->MoveGradients(*shared_);
  return shared_->FinishStep(plan_.gradient_accumulation_steps, counted_);
}

}  // namespace heddle::coordinator
