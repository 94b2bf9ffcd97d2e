#include "model/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/assert.h"

namespace heddle::model {
namespace {

double Ratio(double numerator, double denominator) { return denominator == 0 ? 0 : numerator / denominator; }

double Correlation(std::span<const double> x, std::span<const double> y) {
  if (x.empty()) return 0;
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  const double scale = std::sqrt(xx) * std::sqrt(yy);
  return std::clamp(Ratio(xy, scale), -1.0, 1.0);
}

}  // namespace

void Perplexity::Add(double mean_loss, int64_t tokens) {
  HEDDLE_ASSERT(tokens >= 0, "a number of tokens");
  if (tokens == 0) return;
  sum_ += mean_loss * static_cast<double>(tokens);
  tokens_ += tokens;
}

void Perplexity::Merge(const Perplexity& other) {
  sum_ += other.sum_;
  tokens_ += other.tokens_;
}

double Perplexity::loss() const { return Ratio(sum_, static_cast<double>(tokens_)); }
double Perplexity::value() const { return std::exp(loss()); }

ClassCounts::ClassCounts(int64_t num_classes) {
  HEDDLE_ASSERT(num_classes >= 1, "a number of classes");
  for (auto* counts : {&truths_, &predictions_, &both_}) counts->assign(static_cast<size_t>(num_classes), 0);
}

void ClassCounts::Add(int64_t truth, int64_t predicted) {
  HEDDLE_ASSERT(truth >= 0 && truth < num_classes() && predicted >= 0 && predicted < num_classes(), "classes");
  ++truths_[static_cast<size_t>(truth)];
  ++predictions_[static_cast<size_t>(predicted)];
  if (truth == predicted) ++both_[static_cast<size_t>(truth)];
  ++total_;
}

void ClassCounts::Merge(const ClassCounts& other) {
  HEDDLE_ASSERT(other.num_classes() == num_classes(), "the same classes");
  for (size_t i = 0; i < truths_.size(); ++i) {
    truths_[i] += other.truths_[i];
    predictions_[i] += other.predictions_[i];
    both_[i] += other.both_[i];
  }
  total_ += other.total_;
}

double ClassCounts::Accuracy() const {
  const int64_t right = std::accumulate(both_.begin(), both_.end(), int64_t{0});
  return Ratio(static_cast<double>(right), static_cast<double>(total_));
}

double ClassCounts::F1(int64_t positive) const {
  HEDDLE_ASSERT(positive >= 0 && positive < num_classes(), "a class");
  const auto c = static_cast<size_t>(positive);
  return Ratio(2.0 * static_cast<double>(both_[c]), static_cast<double>(truths_[c] + predictions_[c]));
}

double ClassCounts::MacroF1() const {
  double sum = 0, classes = 0;
  for (size_t c = 0; c < truths_.size(); ++c) {
    if (truths_[c] + predictions_[c] == 0) continue;
    sum += F1(static_cast<int64_t>(c));
    classes += 1;
  }
  return Ratio(sum, classes);
}

double ClassCounts::Matthews() const {
  double right = 0, cross = 0, truth_squares = 0, prediction_squares = 0;
  for (size_t c = 0; c < truths_.size(); ++c) {
    const auto t = static_cast<double>(truths_[c]), p = static_cast<double>(predictions_[c]);
    right += static_cast<double>(both_[c]);
    cross += t * p;
    truth_squares += t * t;
    prediction_squares += p * p;
  }
  const auto all = static_cast<double>(total_);
  const double scale = std::sqrt((all * all - truth_squares) * (all * all - prediction_squares));
  return std::clamp(Ratio(right * all - cross, scale), -1.0, 1.0);
}

void Regression::Add(double truth, double predicted) {
  truths_.push_back(truth);
  predictions_.push_back(predicted);
}

void Regression::Merge(const Regression& other) {
  truths_.insert(truths_.end(), other.truths_.begin(), other.truths_.end());
  predictions_.insert(predictions_.end(), other.predictions_.begin(), other.predictions_.end());
}

double Regression::MeanSquaredError() const {
  double sum = 0;
  for (size_t i = 0; i < truths_.size(); ++i) sum += (truths_[i] - predictions_[i]) * (truths_[i] - predictions_[i]);
  return Ratio(sum, static_cast<double>(truths_.size()));
}

double Regression::Pearson() const { return Correlation(truths_, predictions_); }

double Regression::Spearman() const { return Correlation(MeanRanks(truths_), MeanRanks(predictions_)); }

std::vector<double> MeanRanks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // What is not a number comes last: without a place, it would break the order.
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return values[a] < values[b] || (std::isnan(values[b]) && !std::isnan(values[a]));
  });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = (static_cast<double>(begin) + 1 + static_cast<double>(end)) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = rank;
    begin = end;
  }
  return ranks;
}

}  // namespace heddle::model
