#include "client/split/device.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "common/assert.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"

namespace heddle::client {

using protocol::ControlFrame;
using protocol::FrameKind;
using protocol::TensorFrame;
using torch::Tensor;

namespace {

constexpr char kStartPrefix[] = "start.", kHalfPrefix[] = "half.";

void AddPrefixed(const StateDict& from, const std::string& prefix, StateDict* to) {
  for (const auto& [name, tensor] : from) to->emplace(prefix + name, tensor);
}

StateDict WithPrefix(const StateDict& from, std::string_view prefix) {
  StateDict out;
  for (const auto& [name, tensor] : from) {
    if (name.starts_with(prefix)) out.emplace(name.substr(prefix.size()), tensor);
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<SplitDevice>> SplitDevice::Make(SplitDeviceOptions options) {
  std::unique_ptr<SplitDevice> device(new SplitDevice(std::move(options)));
  device->schedule_ = device->options_.plan.schedule();
  // What does not fit is found now and not in the first round.
  HEDDLE_ASSIGN_OR_RETURN(const StateDict adapter,
                          peft::InitialSide(*device->options_.part, device->options_.plan.device, 1));
  HEDDLE_RETURN_IF_ERROR(
      peft::SplitHalf::Make(device->options_.part, device->options_.plan.device, adapter, device->options_.compute)
          .status());
  if (Status status = device->LoadState(); !status.ok()) {
    Log(Severity::kWarning, "what a split device kept is not used", {{"error", status.message()}});
    device->Forget();
  }
  return device;
}

std::string SplitDevice::Hello() const {
  ControlFrame hello;
  hello.kind = FrameKind::kHello;
  hello.session = session_;
  hello.last = used_;
  hello.text = options_.plan_digest;
  return Serialize(hello);
}

Result<SplitDevice::Action> SplitDevice::Take(std::string_view frame) {
  try {
    return TakeThrowing(frame);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the device's half of the model");
  } catch (const std::exception& error) {
    return Internal(std::string("a split step failed: ") + error.what());
  }
}

Result<SplitDevice::Action> SplitDevice::TakeThrowing(std::string_view bytes) {
  HEDDLE_ASSIGN_OR_RETURN(const FrameKind kind, protocol::KindOf(bytes));
  if (protocol::FromDevice(kind)) return InvalidArgument("the split server sent a frame that only devices send");
  if (kind == FrameKind::kHidden || kind == FrameKind::kGradient) {
    const protocol::SplitPlan& plan = options_.plan;
    protocol::FrameLimits limits;
    limits.rows = plan.batch_size;
    limits.width = static_cast<uint32_t>(options_.part->spec.hidden_size);
    limits.encoding = kind == FrameKind::kHidden ? plan.encoding : plan.gradient_encoding;
    limits.any_encoding = false;
    HEDDLE_ASSIGN_OR_RETURN(const TensorFrame answer, protocol::ParseTensorFrame(bytes, limits));
    stats_.bytes_down += bytes.size();
    stats_.tensor_bytes += answer.tensor.size();
    return Answered(answer);
  }
  HEDDLE_ASSIGN_OR_RETURN(ControlFrame control, protocol::ParseControlFrame(bytes));
  if (kind == FrameKind::kRefusal) return Refused(control);
  if (kind == FrameKind::kWelcome) return Welcomed(std::move(control));
  // kCounted: the round is over for this device.
  if (session_ == 0 || control.session != session_)
    return InvalidArgument("the split server counted what was not sent");
  Forget();
  HEDDLE_RETURN_IF_ERROR(SaveState());
  return Action{Action::Kind::kSend, Hello(), 0};
}

Result<SplitDevice::Action> SplitDevice::Refused(const ControlFrame& refusal) {
  const Status why = StatusOf(refusal);
  if (why.code() == Code::kAborted) {  // the server does not know the session any more
    Forget();
    HEDDLE_RETURN_IF_ERROR(SaveState());
    return Action{Action::Kind::kWait, {}, refusal.retry_ms};
  }
  if (refusal.retry_ms > 0) return Action{Action::Kind::kWait, {}, refusal.retry_ms};
  return why;
}

Result<SplitDevice::Action> SplitDevice::Welcomed(ControlFrame welcome) {
  if (welcome.retry_ms > 0) return Action{Action::Kind::kWait, {}, welcome.retry_ms};
  if (welcome.round == 0) {
    Forget();
    HEDDLE_RETURN_IF_ERROR(SaveState());
    return Action{Action::Kind::kDone, {}, 0};
  }
  if (welcome.session == 0) return InvalidArgument("the split server welcomes to a session without a number");
  if (welcome.session == session_) {
    // The server is where this device is, or one answer ahead; or it was restarted and has lost what came after its
    // last checkpoint.
    if (welcome.last < used_) {
      if (const Status back = GoBackTo(welcome.last); !back.ok()) {
        Log(Severity::kWarning, "a split round begins anew", {{"error", back.message()}});
        Forget();
        return Action{Action::Kind::kSend, Hello(), 0};
      }
    }
    return SendNext();
  }
  HEDDLE_RETURN_IF_ERROR(Begin(welcome));
  return SendNext();
}

Status SplitDevice::Begin(const ControlFrame& welcome) {
  Forget();
  HEDDLE_ASSIGN_OR_RETURN(
      half_, peft::SplitHalf::Make(options_.part, options_.plan.device, welcome.tensors, options_.compute));
  session_ = welcome.session;
  seed_ = welcome.seed;
  start_ = welcome.tensors;
  stats_.round = welcome.round;
  stats_.step = 0;
  HEDDLE_RETURN_IF_ERROR(OpenData(0));
  snapshots_.push_back({0, half_->Save(), 0});
  return SaveState();
}

Status SplitDevice::OpenData(uint64_t used) {
  HEDDLE_ASSIGN_OR_RETURN(batches_, options_.batches(DeriveSeed(seed_, "split data", "")));
  for (uint64_t i = 0; i < used; ++i) HEDDLE_RETURN_IF_ERROR(batches_->Next().status());
  return OkStatus();
}

Status SplitDevice::GoBackTo(uint32_t sequence) {
  const auto found = std::find_if(snapshots_.begin(), snapshots_.end(),
                                  [sequence](const Snapshot& one) { return one.sequence == sequence; });
  if (found == snapshots_.end()) {
    return DataLoss("the split server went back to request " + std::to_string(sequence) +
                    " of the session, and this device cannot");
  }
  HEDDLE_RETURN_IF_ERROR(half_->Restore(found->half));
  examples_ = found->examples;
  snapshots_.erase(found + 1, snapshots_.end());
  used_ = sequence;
  outstanding_.clear();
  step_loss_ = 0;
  step_counted_ = 0;
  const uint64_t steps = sequence / schedule_.RequestsOfStep();
  return OpenData(steps * schedule_.micros);
}

Result<SplitDevice::Action> SplitDevice::SendNext() {
  if (used_ == schedule_.Requests()) return SendUpdate();
  if (outstanding_.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(const TensorFrame request, MakeRequest());
    outstanding_ = Serialize(request);
    stats_.tensor_bytes += request.tensor.size();
  }
  stats_.bytes_up += outstanding_.size();
  return Action{Action::Kind::kSend, outstanding_, 0};
}

Result<TensorFrame> SplitDevice::MakeRequest() {
  const protocol::SplitSchedule::Place place = schedule_.At(used_ + 1);
  TensorFrame frame;
  frame.kind = place.request;
  frame.session = session_;
  frame.sequence = used_ + 1;
  frame.step = place.step;
  frame.micro = place.micro;
  frame.micros = schedule_.micros;
  if (place.request == FrameKind::kActivations) {
    HEDDLE_RETURN_IF_ERROR(Forward(&frame));
  } else {
    frame.loss = loss_;
    HEDDLE_RETURN_IF_ERROR(peft::PutTensor(tail_gradient_, options_.plan.gradient_encoding, &frame));
  }
  frame.counted = static_cast<uint32_t>(batch_.counted);
  return frame;
}

Status SplitDevice::Forward(TensorFrame* frame) {
  HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches_->Next());
  HEDDLE_ASSERT(batch.has_value(), "training data have no end");
  batch_ = batch->On(half_->network()->device());
  // A model counts the positions of packed rows by itself, as these are.
  if (batch_.input.segments.defined()) batch_.input.positions = Tensor();
  half_->SeedDropout(seed_, frame->step, frame->micro);
  front_ = half_->network()->Front(batch_.input);
  HEDDLE_RETURN_IF_ERROR(peft::PutTensor(front_, options_.plan.encoding, frame));
  return peft::PutInput(batch_.input, options_.plan.u_shaped() ? Tensor() : batch_.targets, frame);
}

Result<SplitDevice::Action> SplitDevice::Answered(const TensorFrame& answer) {
  if (session_ == 0 || answer.session != session_ || outstanding_.empty()) {
    return InvalidArgument("the split server answered what was not asked");
  }
  const protocol::SplitSchedule::Place place = schedule_.At(used_ + 1);
  if (answer.sequence != used_ + 1 || answer.kind != place.answer || answer.step != place.step ||
      answer.micro != place.micro) {
    return InvalidArgument("the split server answered request " + std::to_string(answer.sequence) + " with the " +
                           std::string(FrameKindName(answer.kind)) + " of step " + std::to_string(answer.step) +
                           ", and what was asked is request " + std::to_string(used_ + 1));
  }
  if (answer.tokens() != static_cast<uint64_t>(front_.size(0) * front_.size(1))) {
    return InvalidArgument("the split server answered with a tensor of another shape");
  }
  HEDDLE_RETURN_IF_ERROR(UseAnswer(answer));
  ++used_;
  outstanding_.clear();
  if (place.ends_step) HEDDLE_RETURN_IF_ERROR(EndStep(answer.durable));
  return SendNext();
}

Status SplitDevice::UseAnswer(const TensorFrame& answer) {
  if (answer.kind == FrameKind::kHidden) return TailBackward(answer);
  const double loss = options_.plan.u_shaped() ? loss_ : answer.loss;
  if (front_.requires_grad()) {
    HEDDLE_ASSIGN_OR_RETURN(const Tensor gradient, peft::TakeTensor(answer, front_.scalar_type(), front_.device()));
    front_.backward(gradient);
  }
  const auto counted = static_cast<uint64_t>(batch_.counted);
  step_loss_ += loss * static_cast<double>(counted);
  step_counted_ += counted;
  examples_ += batch_.rows;
  stats_.examples += batch_.rows;
  return OkStatus();
}

// The loss of what the server made of the activations; its gradient is the next request.
Status SplitDevice::TailBackward(const TensorFrame& answer) {
  HEDDLE_ASSIGN_OR_RETURN(Tensor hidden, peft::TakeTensor(answer, front_.scalar_type(), front_.device()));
  hidden.requires_grad_(true);
  Tensor loss = half_->network()->TailLoss(hidden, batch_.input, batch_.targets);
  loss_ = loss.item<double>();
  if (!std::isfinite(loss_)) return Internal("the loss is not finite; a smaller learning_rate may help");
  // As model::GradientAccumulator: of several micro-batches, each counts as its targets.
  if (schedule_.micros > 1) loss = loss * static_cast<double>(batch_.counted);
  if (batch_.counted > 0) loss.backward();
  tail_gradient_ = hidden.grad().defined() ? hidden.grad() : torch::zeros_like(hidden);
  return OkStatus();
}

Status SplitDevice::EndStep(uint32_t durable) {
  HEDDLE_RETURN_IF_ERROR(half_->FinishStep(schedule_.micros, step_counted_));
  const double loss = step_counted_ > 0 ? step_loss_ / static_cast<double>(step_counted_) : 0;
  stats_.step = used_ / schedule_.RequestsOfStep();
  ++stats_.steps;
  if (stats_.step == 1) stats_.first_loss = loss;
  stats_.last_loss = loss;
  step_loss_ = 0;
  step_counted_ = 0;
  snapshots_.push_back({used_, half_->Save(), examples_});
  // The server never goes back behind what it has on disk.
  while (snapshots_.size() > 1 && snapshots_[1].sequence <= durable) snapshots_.pop_front();
  return SaveState();
}

SplitDevice::Action SplitDevice::SendUpdate() {
  ControlFrame update;
  update.kind = FrameKind::kUpdate;
  update.session = session_;
  update.examples = examples_;
  update.tensors = peft::Difference(half_->Adapter(), start_);
  return {Action::Kind::kSend, Serialize(update), 0};
}

void SplitDevice::Forget() {
  half_.reset();
  batches_.reset();
  start_.clear();
  session_ = seed_ = examples_ = 0;
  used_ = 0;
  outstanding_.clear();
  snapshots_.clear();
  step_loss_ = 0;
  step_counted_ = 0;
}

// The snapshots are few: those since the server's last checkpoint.
Status SplitDevice::SaveState() const {
  if (options_.state_file.empty()) return OkStatus();
  StateDict tensors;
  AddPrefixed(start_, kStartPrefix, &tensors);
  std::map<std::string, std::string> metadata = {{"plan", options_.plan_digest},
                                                 {"session", std::to_string(session_)},
                                                 {"seed", std::to_string(seed_)},
                                                 {"round", std::to_string(stats_.round)},
                                                 {"snapshots", std::to_string(snapshots_.size())}};
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    const std::string number = std::to_string(i);
    metadata["sequence." + number] = std::to_string(snapshots_[i].sequence);
    metadata["examples." + number] = std::to_string(snapshots_[i].examples);
    AddPrefixed(snapshots_[i].half, kHalfPrefix + number + ".", &tensors);
  }
  return WriteSafetensors(options_.state_file, tensors, metadata);
}

Status SplitDevice::LoadState() {
  if (options_.state_file.empty() || !std::filesystem::exists(options_.state_file)) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadSafetensors(options_.state_file));
  const auto number = [&file](const std::string& key, uint64_t* value) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) return false;
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
    return error == std::errc() && end == text.data() + text.size();
  };
  const auto plan = file.metadata.find("plan");
  if (plan == file.metadata.end() || plan->second != options_.plan_digest) {
    return FailedPrecondition(options_.state_file.string() + " is of another plan");
  }
  const Status damaged = DataLoss(options_.state_file.string() + " is damaged");
  uint64_t round = 0, count = 0;
  if (!number("session", &session_) || !number("seed", &seed_) || !number("round", &round) ||
      !number("snapshots", &count)) {
    return damaged;
  }
  if (session_ == 0) return OkStatus();
  if (count == 0 || count > schedule_.steps + 1) return damaged;
  stats_.round = static_cast<uint32_t>(round);
  start_ = WithPrefix(file.tensors, kStartPrefix);
  HEDDLE_ASSIGN_OR_RETURN(half_, peft::SplitHalf::Make(options_.part, options_.plan.device, start_, options_.compute));
  for (size_t i = 0; i < count; ++i) {
    uint64_t sequence = 0, examples = 0;
    const std::string index = std::to_string(i);
    if (!number("sequence." + index, &sequence) || !number("examples." + index, &examples) ||
        sequence > schedule_.Requests() || sequence % schedule_.RequestsOfStep() != 0) {
      return damaged;
    }
    Snapshot snapshot{static_cast<uint32_t>(sequence), WithPrefix(file.tensors, kHalfPrefix + index + "."), examples};
    HEDDLE_RETURN_IF_ERROR(half_->Restore(snapshot.half));
    snapshots_.push_back(std::move(snapshot));
  }
  return GoBackTo(snapshots_.back().sequence);
}

}  // namespace heddle::client
