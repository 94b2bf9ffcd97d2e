#include "protocol/split/schedule.h"

#include <tuple>
#include <utility>

#include "common/assert.h"

namespace heddle::protocol {

namespace {

// The request of a U-shaped step at place k, from 0, with p micro-batches ahead of n: whether it is a tail's gradient,
// and of which micro-batch.
std::pair<bool, uint32_t> UShapedPlace(uint32_t k, uint32_t p, uint32_t n) {
  if (k < p) return {false, k};
  const uint32_t after = k - p, pairs = n - p;
  if (after >= 2 * pairs) return {true, after - pairs};
  return after % 2 == 0 ? std::pair{true, after / 2} : std::pair{false, after / 2 + p};
}

}  // namespace

SplitSchedule::Place SplitSchedule::At(uint32_t sequence) const {
  HEDDLE_ASSERT(sequence >= 1 && sequence <= Requests() && ahead >= 1, "a request of the session");
  const uint32_t in_step = (sequence - 1) % RequestsOfStep();
  Place place;
  place.step = (sequence - 1) / RequestsOfStep() + 1;
  bool tail = false;
  place.micro = in_step;
  if (u_shaped) std::tie(tail, place.micro) = UShapedPlace(in_step, Window(), micros);
  place.request = tail ? FrameKind::kTailGradient : FrameKind::kActivations;
  place.answer = u_shaped && !tail ? FrameKind::kHidden : FrameKind::kGradient;
  place.ends_step = in_step + 1 == RequestsOfStep();
  return place;
}

uint32_t SplitSchedule::Needs(uint32_t sequence) const {
  const Place place = At(sequence);
  const uint32_t before = (place.step - 1) * RequestsOfStep(), window = Window(), micro = place.micro;
  if (place.request == FrameKind::kTailGradient) {
    return before + (micro < window ? micro : window + 2 * (micro - window) + 1) + 1;
  }
  return u_shaped || micro < window ? before : before + micro - window + 1;
}

uint32_t SplitSchedule::MaxInFlight() const { return std::min(RequestsOfStep(), Window() * (u_shaped ? 2 : 1)); }

Result<const std::string*> AnswerLog::Admit(const TensorFrame& request, uint32_t waiting) const {
  const uint32_t sequence = request.sequence;
  if (sequence == 0 || sequence > schedule_.Requests()) {
    return OutOfRange("request " + std::to_string(sequence) + " is beyond the " + std::to_string(schedule_.Requests()) +
                      " of the session");
  }
  const SplitSchedule::Place place = schedule_.At(sequence);
  if (request.kind != place.request || request.step != place.step || request.micro != place.micro ||
      request.micros != schedule_.micros) {
    return InvalidArgument("request " + std::to_string(sequence) + " of the session is the " +
                           std::string(FrameKindName(place.request)) + " of step " + std::to_string(place.step) +
                           ", micro-batch " + std::to_string(place.micro) + ", not the " +
                           std::string(FrameKindName(request.kind)) + " of step " + std::to_string(request.step) +
                           ", micro-batch " + std::to_string(request.micro));
  }
  if (sequence == last_ + waiting + 1) return static_cast<const std::string*>(nullptr);
  if (sequence <= last_ && sequence >= first_kept_) return &kept_[sequence - first_kept_];
  return FailedPrecondition("request " + std::to_string(sequence) + " is out of order: the next is " +
                            std::to_string(last_ + waiting + 1));
}

void AnswerLog::Add(std::string answer) {
  ++last_;
  kept_.push_back(std::move(answer));
  if (!schedule_.At(last_).ends_step) return;
  boundary_ = last_;
  while (kept_.size() > schedule_.RequestsOfStep()) {
    kept_.pop_front();
    ++first_kept_;
  }
}

std::deque<std::string> AnswerLog::AtBoundary() const {
  std::deque<std::string> out;
  for (size_t i = 0; i < kept_.size(); ++i) {
    if (first_kept_ + i <= boundary_) out.push_back(kept_[i]);
  }
  return out;
}

Status AnswerLog::Restore(uint32_t boundary, std::deque<std::string> kept) {
  const size_t expected = boundary == 0 ? 0 : schedule_.RequestsOfStep();
  if (boundary > schedule_.Requests() || boundary % schedule_.RequestsOfStep() != 0 || kept.size() != expected) {
    return DataLoss("a checkpoint has " + std::to_string(kept.size()) + " answers of a session at request " +
                    std::to_string(boundary));
  }
  last_ = boundary_ = boundary;
  first_kept_ = boundary - static_cast<uint32_t>(kept.size()) + 1;
  kept_ = std::move(kept);
  return OkStatus();
}

}  // namespace heddle::protocol
