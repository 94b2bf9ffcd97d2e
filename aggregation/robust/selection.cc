#include "aggregation/robust/selection.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "common/assert.h"

namespace heddle::aggregation {
namespace {

std::vector<size_t> AllOf(size_t n) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), size_t{0});
  return all;
}

// The others of each update, the nearest first.
class Neighbours {
 public:
  explicit Neighbours(const PairMatrix& squared_distances) : distances_(squared_distances) {
    const auto n = static_cast<uint32_t>(distances_.size());
    others_.resize(n);
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t j = 0; j < n; ++j) {
        if (j != i) others_[i].push_back(j);
      }
      std::stable_sort(others_[i].begin(), others_[i].end(),
                       [&](uint32_t a, uint32_t b) { return distances_.at(i, a) < distances_.at(i, b); });
    }
  }

  // Krum's score of update i among those that are `left`, `num_left` with itself.
  double Score(size_t i, const std::vector<bool>& left, size_t num_left, size_t f) const {
    size_t wanted = std::min(num_left - 1, num_left > f + 2 ? num_left - f - 2 : size_t{1});
    double sum = 0;
    for (auto j = others_[i].begin(); wanted > 0; ++j) {
      if (!left[*j]) continue;
      sum += distances_.at(i, *j);
      --wanted;
    }
    return sum;
  }

 private:
  const PairMatrix& distances_;
  std::vector<std::vector<uint32_t>> others_;
};

}  // namespace

std::vector<double> KrumScores(const PairMatrix& squared_distances, size_t f) {
  const size_t n = squared_distances.size();
  const Neighbours neighbours(squared_distances);
  std::vector<double> scores;
  for (size_t i = 0; i < n; ++i) scores.push_back(neighbours.Score(i, std::vector<bool>(n, true), n, f));
  return scores;
}

std::vector<size_t> MultiKrumSelection(const PairMatrix& squared_distances, size_t f, size_t count) {
  std::vector<size_t> order = AllOf(squared_distances.size());
  HEDDLE_ASSERT(count >= 1 && count <= order.size(), "Krum selects among the updates that there are");
  const std::vector<double> scores = KrumScores(squared_distances, f);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<size_t> BulyanSelection(const PairMatrix& squared_distances, size_t f, size_t count) {
  const size_t n = squared_distances.size();
  HEDDLE_ASSERT(count >= 1 && count <= n, "Bulyan selects among the updates that there are");
  const Neighbours neighbours(squared_distances);
  std::vector<bool> left(n, true);
  for (size_t taken = 0; taken < count; ++taken) {
    size_t best = n;
    double least = 0;
    for (size_t i = 0; i < n; ++i) {
      if (!left[i]) continue;
      const double score = neighbours.Score(i, left, n - taken, f);
      if (best == n || score < least) {
        best = i;
        least = score;
      }
    }
    left[best] = false;
  }
  std::vector<size_t> selected;
  for (size_t i = 0; i < n; ++i) {
    if (!left[i]) selected.push_back(i);
  }
  return selected;
}

std::vector<double> FoolsGoldWeights(const PairMatrix& cosines) {
  const size_t n = cosines.size();
  if (n == 1) return {1.0};
  std::vector<double> most(n, 0.0);  // likeness to the nearest other; to be unlike all of them is no merit
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (j != i) most[i] = std::max(most[i], cosines.at(i, j));
    }
  }
  // Pardoning: who merely stands near one that is suspected more is suspected less.
  std::vector<double> weights(n, 0.0);
  for (size_t i = 0; i < n; ++i) {
    double likeness = 0;
    for (size_t j = 0; j < n; ++j) {
      if (j == i) continue;
      const double cosine = cosines.at(i, j);
      likeness = std::max(likeness, most[j] > most[i] ? cosine * most[i] / most[j] : cosine);
    }
    weights[i] = std::clamp(1 - likeness, 0.0, 1.0);
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  if (!(largest > 0)) return std::vector<double>(n, 0.0);
  for (double& weight : weights) {
    const double alpha = weight / largest;
    // The logit, around one half; infinite at both ends, where it is cut.
    weight = alpha <= 0 ? 0.0 : alpha >= 1 ? 1.0 : std::clamp(std::log(alpha / (1 - alpha)) + 0.5, 0.0, 1.0);
  }
  return weights;
}

}  // namespace heddle::aggregation
