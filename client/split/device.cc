#include "client/split/device.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "common/assert.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "peft/split/privacy.h"

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

// Of what a head chooses from; 1: it gives a grade.
int64_t Labels(const model::ModelSpec& spec) {
  const bool words = spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm;
  return words ? spec.vocab_size : spec.num_labels;
}

// The embeddings of a part, without its layers.
model::Transformer EmbeddingsOf(const model::BaseWeights& part) {
  const auto base = std::make_shared<model::BaseWeights>();
  base->spec = part.spec;
  base->spec.part = {.embeddings = true, .first_layer = 0, .end_layer = 0, .head = false};
  for (const auto& [name, tensor] : base->spec.WeightSpec()) base->tensors.emplace(name, part.tensors.at(name));
  return model::Transformer(base);
}

// Of at most so many tokens, without padding.
double TokenCorrelation(const Tensor& embeddings, const Tensor& sent, const Tensor& mask) {
  constexpr int64_t kMost = 512;
  const torch::NoGradGuard no_grad;
  Tensor a = embeddings.flatten(0, 1), b = sent.flatten(0, 1);
  if (mask.defined() && mask.numel() == a.size(0)) {
    const Tensor real = mask.flatten().nonzero().flatten();
    a = a.index_select(0, real);
    b = b.index_select(0, real);
  }
  return peft::DistanceCorrelation(a.slice(0, 0, kMost), b.slice(0, 0, kMost));
}

}  // namespace

Result<std::unique_ptr<SplitDevice>> SplitDevice::Make(SplitDeviceOptions options) {
  options.compute.checkpoint_layers |= options.plan.device_checkpointing;
  std::unique_ptr<SplitDevice> device(new SplitDevice(std::move(options)));
  device->schedule_ = device->options_.plan.schedule();
  const protocol::SplitPrivacy& privacy = device->options_.plan.privacy;
  if ((privacy.noise_multiplier > 0 || privacy.label_epsilon > 0) && device->options_.secret.empty()) {
    return InvalidArgument("noise and randomised labels need a secret of the device's");
  }
  if (privacy.label_epsilon > 0 && Labels(device->options_.part->spec) < 2) {
    return InvalidArgument("privacy.label_epsilon is for labels, and this model's head gives a grade");
  }
  if (privacy.distance_correlation) device->embeddings_ = EmbeddingsOf(*device->options_.part);
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

std::string SplitDevice::Hello() {
  owed_ = 1;
  retry_ms_ = 0;
  ControlFrame hello;
  hello.kind = FrameKind::kHello;
  hello.session = session_;
  hello.last = used_;
  hello.text = options_.plan_digest;
  return Serialize(hello);
}

// The wall around LibTorch.
template <typename Work>
Result<SplitDevice::Action> SplitDevice::Guarded(Work work) {
  try {
    return work();
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the device's half of the model");
  } catch (const std::exception& error) {
    return Internal(std::string("a split step failed: ") + error.what());
  }
}

Result<SplitDevice::Action> SplitDevice::Take(std::string_view frame) {
  const uint32_t owed = owed_;
  if (owed_ > 0) --owed_;
  Result<Action> action = Guarded([&] { return TakeThrowing(frame); });
  if (!action.ok()) owed_ = owed;  // what is refused answers nothing
  return action;
}

// Once for all that is on the way: a server that went back refuses each of its requests, and a hello for each would
// have each of them sent several times.
SplitDevice::Action SplitDevice::WaitOnce(uint32_t retry_ms) {
  retry_ms_ = std::max(retry_ms_, retry_ms);
  if (owed_ > 0) return {Action::Kind::kListen, {}, 0};
  return {Action::Kind::kWait, {}, std::exchange(retry_ms_, 0)};
}

Result<SplitDevice::Action> SplitDevice::Next() {
  if (session_ == 0 || used_ == schedule_.Requests()) return Action{Action::Kind::kListen, {}, 0};
  return Guarded([&] { return SendNext(); });
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
  // kCounted: the round is over for this device, which has sent its update.
  if (session_ == 0 || control.session != session_ || used_ != schedule_.Requests()) {
    return InvalidArgument("the split server counted what was not sent");
  }
  Forget();
  HEDDLE_RETURN_IF_ERROR(SaveState());
  return Action{Action::Kind::kSend, Hello(), 0};
}

Result<SplitDevice::Action> SplitDevice::Refused(const ControlFrame& refusal) {
  const Status why = StatusOf(refusal);
  if (why.code() == Code::kAborted) {  // the server does not know the session any more
    Forget();
    HEDDLE_RETURN_IF_ERROR(SaveState());
    return WaitOnce(refusal.retry_ms);
  }
  if (refusal.retry_ms > 0) return WaitOnce(refusal.retry_ms);
  return why;
}

Result<SplitDevice::Action> SplitDevice::Welcomed(ControlFrame welcome) {
  if (welcome.retry_ms > 0) return WaitOnce(welcome.retry_ms);
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
    sent_ = used_;  // all that is on the way goes out again
    return SendNext();
  }
  HEDDLE_RETURN_IF_ERROR(Begin(welcome));
  return SendNext();
}

Status SplitDevice::Begin(const ControlFrame& welcome) {
  // First what may be refused: the session in hand stays as it was then.
  for (const auto& [name, tensor] : welcome.tensors) {
    const bool finite = tensor.dtype() != DType::kF32 ||
                        std::ranges::all_of(tensor.values<float>(), [](float value) { return std::isfinite(value); });
    if (!finite) return InvalidArgument("the split server welcomes with a value of " + name + " that is not finite");
  }
  HEDDLE_ASSIGN_OR_RETURN(
      auto half, peft::SplitHalf::Make(options_.part, options_.plan.device, welcome.tensors, options_.compute));
  Forget();
  half_ = std::move(half);
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
  used_ = sent_ = sequence;
  DropMicros();
  const uint64_t steps = sequence / schedule_.RequestsOfStep();
  return OpenData(steps * schedule_.micros);
}

Result<SplitDevice::Action> SplitDevice::SendNext() {
  if (used_ == schedule_.Requests()) return SendUpdate();
  if (sent_ == schedule_.Requests() || schedule_.Needs(sent_ + 1) > used_) return Action{Action::Kind::kListen, {}, 0};
  if (sent_ - used_ == made_.size()) {
    HEDDLE_ASSIGN_OR_RETURN(const TensorFrame request, MakeRequest(sent_ + 1));
    made_.push_back(Serialize(request));
    stats_.tensor_bytes += request.tensor.size();
  }
  const std::string& frame = made_[sent_ - used_];
  ++sent_;
  ++owed_;
  stats_.bytes_up += frame.size();
  return Action{Action::Kind::kSend, frame, 0};
}

Result<TensorFrame> SplitDevice::MakeRequest(uint32_t sequence) {
  const protocol::SplitSchedule::Place place = schedule_.At(sequence);
  TensorFrame frame;
  frame.kind = place.request;
  frame.session = session_;
  frame.sequence = sequence;
  frame.step = place.step;
  frame.micro = place.micro;
  frame.micros = schedule_.micros;
  if (place.request == FrameKind::kActivations) {
    HEDDLE_RETURN_IF_ERROR(Forward(&frame));
  } else {
    const Micro& micro = micros_.at(place.micro);
    frame.loss = micro.loss;
    HEDDLE_RETURN_IF_ERROR(peft::PutTensor(micro.tail_gradient, options_.plan.gradient_encoding, &frame));
  }
  frame.counted = static_cast<uint32_t>(micros_.at(place.micro).batch.counted);
  return frame;
}

Tensor SplitDevice::Protected(const Tensor& front, const HeadBatch& batch, const TensorFrame& frame) const {
  const protocol::SplitPrivacy& privacy = options_.plan.privacy;
  if (privacy.clip_norm == 0) return front;
  const Tensor clipped = peft::ClipSamples(front, batch.input.segments, privacy.clip_norm);
  if (privacy.noise_multiplier == 0) return clipped;
  return peft::AddCutNoise(clipped, privacy.noise_multiplier * privacy.clip_norm, options_.secret, seed_, frame.step,
                           frame.micro);
}

// Undefined: they stay here.
Tensor SplitDevice::SentTargets(const HeadBatch& batch) const {
  const protocol::SplitPlan& plan = options_.plan;
  if (plan.u_shaped()) return {};
  if (plan.privacy.label_epsilon == 0) return batch.targets;
  return peft::RandomiseTargets(batch.targets, Labels(options_.part->spec), plan.privacy.label_epsilon, options_.secret,
                                batch.input);
}

Status SplitDevice::Forward(TensorFrame* frame) {
  HEDDLE_ASSIGN_OR_RETURN(const std::optional<HeadBatch> batch, batches_->Next());
  HEDDLE_ASSERT(batch.has_value(), "training data have no end");
  Micro micro;
  micro.batch = batch->On(half_->network()->device());
  // A model counts the positions of packed rows by itself, as these are.
  if (micro.batch.input.segments.defined()) micro.batch.input.positions = Tensor();
  half_->SeedDropout(seed_, frame->step, frame->micro);
  micro.front = Protected(half_->network()->Front(micro.batch.input), micro.batch, *frame);
  if (embeddings_ && frame->sequence == 1) {
    const torch::NoGradGuard no_grad;
    stats_.distance_correlation =
        TokenCorrelation(embeddings_->Front(micro.batch.input), micro.front, micro.batch.input.mask);
  }
  HEDDLE_RETURN_IF_ERROR(peft::PutTensor(micro.front, options_.plan.encoding, frame));
  HEDDLE_RETURN_IF_ERROR(peft::PutInput(micro.batch.input, SentTargets(micro.batch), frame));
  micros_.insert_or_assign(frame->micro, std::move(micro));
  return OkStatus();
}

Result<SplitDevice::Action> SplitDevice::Answered(const TensorFrame& answer) {
  if (session_ == 0 || answer.session != session_ || sent_ == used_) {
    return InvalidArgument("the split server answered what was not asked");
  }
  const protocol::SplitSchedule::Place place = schedule_.At(used_ + 1);
  if (answer.sequence != used_ + 1 || answer.kind != place.answer || answer.step != place.step ||
      answer.micro != place.micro) {
    return InvalidArgument("the split server answered request " + std::to_string(answer.sequence) + " with the " +
                           std::string(FrameKindName(answer.kind)) + " of step " + std::to_string(answer.step) +
                           ", and what was asked is request " + std::to_string(used_ + 1));
  }
  const Tensor& front = micros_.at(place.micro).front;
  if (answer.rows != front.size(0) || answer.length != front.size(1)) {
    return InvalidArgument("the split server answered with a tensor of another shape");
  }
  HEDDLE_RETURN_IF_ERROR(UseAnswer(answer));
  ++used_;
  made_.pop_front();
  if (place.ends_step) HEDDLE_RETURN_IF_ERROR(EndStep(answer.durable));
  return SendNext();
}

Status SplitDevice::UseAnswer(const TensorFrame& answer) {
  Micro& micro = micros_.at(answer.micro);
  if (answer.kind == FrameKind::kHidden) return TailBackward(answer, &micro);
  const double loss = options_.plan.u_shaped() ? micro.loss : answer.loss;
  if (micro.front.requires_grad()) {
    HEDDLE_ASSIGN_OR_RETURN(const Tensor gradient,
                            peft::TakeTensor(answer, micro.front.scalar_type(), micro.front.device()));
    micro.front.backward(gradient);
  }
  const auto counted = static_cast<uint64_t>(micro.batch.counted);
  step_loss_ += loss * static_cast<double>(counted);
  step_counted_ += counted;
  examples_ += micro.batch.rows;
  stats_.examples += micro.batch.rows;
  micros_.erase(answer.micro);
  return OkStatus();
}

// The loss of what the server made of the activations; its gradient is the next request.
Status SplitDevice::TailBackward(const TensorFrame& answer, Micro* micro) {
  HEDDLE_ASSIGN_OR_RETURN(Tensor hidden, peft::TakeTensor(answer, micro->front.scalar_type(), micro->front.device()));
  hidden.requires_grad_(true);
  Tensor loss = half_->network()->TailLoss(hidden, micro->batch.input, micro->batch.targets);
  micro->loss = loss.item<double>();
  if (!std::isfinite(micro->loss)) return Internal("the loss is not finite; a smaller learning_rate may help");
  // As model::GradientAccumulator: of several micro-batches, each counts as its targets.
  if (schedule_.micros > 1) loss = loss * static_cast<double>(micro->batch.counted);
  half_->SwapGradients(&tail_sums_);
  if (micro->batch.counted > 0) loss.backward();
  half_->SwapGradients(&tail_sums_);
  micro->tail_gradient = hidden.grad().defined() ? hidden.grad() : torch::zeros_like(hidden);
  return OkStatus();
}

Status SplitDevice::EndStep(uint32_t durable) {
  half_->AddAside(&tail_sums_);
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
  ++owed_;
  return {Action::Kind::kSend, Serialize(update), 0};
}

void SplitDevice::Forget() {
  half_.reset();
  batches_.reset();
  start_.clear();
  session_ = seed_ = examples_ = 0;
  used_ = sent_ = 0;
  snapshots_.clear();
  DropMicros();
}

// What belongs to a step that is not over.
void SplitDevice::DropMicros() {
  made_.clear();
  micros_.clear();
  tail_sums_.clear();
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
