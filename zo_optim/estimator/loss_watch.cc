#include "zo_optim/estimator/loss_watch.h"

#include <cmath>

namespace heddle::zo {

void LossWatch::Add(double loss) {
  if (std::isfinite(loss)) losses_.push_back(loss);
}

LossWatch::Half LossWatch::Of(size_t begin, size_t end) const {
  Half half;
  if (begin == end) return half;
  const auto n = static_cast<double>(end - begin);
  for (size_t i = begin; i < end; ++i) half.mean += losses_[i] / n;
  double squares = 0;
  for (size_t i = begin; i < end; ++i) squares += (losses_[i] - half.mean) * (losses_[i] - half.mean);
  if (n > 1) half.error = squares / (n - 1) / n;
  return half;
}

bool LossWatch::Stalled() const {
  if (losses_.size() < kEnough) return false;
  const size_t middle = losses_.size() / 2;
  const Half first = Of(0, middle), second = Of(middle, losses_.size());
  return first.mean - second.mean <= 2 * std::sqrt(first.error + second.error);
}

double LossWatch::first_half() const { return Of(0, losses_.size() / 2).mean; }

double LossWatch::second_half() const { return Of(losses_.size() / 2, losses_.size()).mean; }

std::string LossWatch::Sentence() const {
  return "the loss does not fall: " + std::to_string(first_half()) + " in the first half of " +
         std::to_string(losses_.size()) + " steps, " + std::to_string(second_half()) +
         " in the second; a larger learning_rate, more num_perturbations or another zo_eps may help";
}

}  // namespace heddle::zo
