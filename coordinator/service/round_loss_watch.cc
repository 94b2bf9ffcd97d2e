#include "coordinator/service/round_loss_watch.h"

#include <cmath>

#include "zo_optim/estimator/loss_watch.h"

namespace heddle::coordinator {

static_assert(RoundLossWatch::kEvery >= zo::LossWatch::kEnough);

namespace {

zo::LossWatch WatchOf(const std::deque<double>& losses) {
  zo::LossWatch watch;
  for (const double loss : losses) watch.Add(loss);
  return watch;
}

}  // namespace

bool RoundLossWatch::Add(double loss) {
  if (!std::isfinite(loss)) return false;
  losses_.push_back(loss);
  if (losses_.size() > kRounds) losses_.pop_front();
  if (++count_ % kEvery != 0) return false;
  const bool before = stalled_;
  stalled_ = WatchOf(losses_).Stalled();
  return stalled_ && !before;
}

std::string RoundLossWatch::Sentence(bool zeroth_order) const {
  const zo::LossWatch watch = WatchOf(losses_);
  return "the training loss does not fall: " + std::to_string(watch.first_half()) + " in the first half of the last " +
         std::to_string(losses_.size()) + " committed rounds, " + std::to_string(watch.second_half()) +
         " in the second; unless the run has learnt what it can, another train.learning_rate" +
         (zeroth_order ? ", another zo.zo_eps or more zo.num_perturbations may help" : " may help");
}

}  // namespace heddle::coordinator
