#include "model/training/gradient_accumulator.h"

#include "common/assert.h"

namespace heddle::model {

GradientAccumulator::GradientAccumulator(std::vector<torch::Tensor> parameters, uint32_t micro_batches)
    : parameters_(std::move(parameters)), micro_batches_(micro_batches) {
  HEDDLE_ASSERT(micro_batches >= 1, "a step without a batch");
}

void GradientAccumulator::Add(const torch::Tensor& mean_loss, int64_t counted) {
  HEDDLE_ASSERT(counted >= 0, "a number of targets");
  if (micro_batches_ == 1) {
    if (counted > 0) mean_loss.backward();
    loss_ = counted > 0 ? mean_loss.item<double>() : 0.0;
    counted_ = counted;
    return;
  }
  if (counted == 0) return;
  (mean_loss * static_cast<double>(counted)).backward();
  loss_ += mean_loss.item<double>() * static_cast<double>(counted);
  counted_ += counted;
}

GradientAccumulator::Total GradientAccumulator::Finish() {
  Total total{loss_, counted_};
  if (micro_batches_ > 1 && counted_ > 0) {
    total.loss /= static_cast<double>(counted_);
    torch::NoGradGuard no_grad;
    for (torch::Tensor& p : parameters_) {
      if (p.grad().defined()) p.mutable_grad().mul_(1.0 / static_cast<double>(counted_));
    }
  }
  loss_ = 0;
  counted_ = 0;
  return total;
}

}  // namespace heddle::model
