// Which updates a robust rule trusts, from their distances or likenesses alone. Pure functions in double, independent
// of threads; where two updates are equally good the one that comes first wins, so the caller's order (devices by name)
// is part of the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace heddle::aggregation {

// Squared distances between n updates, or any other symmetric matrix with the diagonal left out.
class PairMatrix {
 public:
  // All zero. May throw std::bad_alloc.
  explicit PairMatrix(size_t n) : n_(n), values_(n * (n - (n > 0 ? 1 : 0)) / 2) {}
  size_t size() const { return n_; }
  size_t pairs() const { return values_.size(); }
  // i != j.
  double& at(size_t i, size_t j) { return values_[Index(i, j)]; }
  double at(size_t i, size_t j) const { return values_[Index(i, j)]; }
  // The pair that stands at an index from 0 to pairs() - 1: i > j, by i and then by j.
  static size_t Index(size_t i, size_t j) { return i > j ? i * (i - 1) / 2 + j : j * (j - 1) / 2 + i; }
  std::span<double> values() { return values_; }

 private:
  size_t n_;
  std::vector<double> values_;
};

// Krum (Blanchard et al., 1703.02757): for each update the sum of its squared distances to the n - f - 2 nearest
// others, at least one where there is one.
std::vector<double> KrumScores(const PairMatrix& squared_distances, size_t f);

// Updates that Krum needs against f attackers: with fewer, those who agree may be nearest to each other.
constexpr uint64_t LeastForKrum(uint64_t f) { return 2 * f + 3; }

// The `count` of all updates with the smallest Krum scores, in their own order (not that of the scores). 1 <= count <=
// n.
std::vector<size_t> MultiKrumSelection(const PairMatrix& squared_distances, size_t f, size_t count);

// Bulyan's first half (El Mhamdi et al., 1802.07927): `count` times the best by Krum among those that are left, whose
// number then stands for n in the score. In their own order. 1 <= count <= n.
std::vector<size_t> BulyanSelection(const PairMatrix& squared_distances, size_t f, size_t count);

// FoolsGold (Fung et al., 1808.04866): from the cosines between the devices' histories, how far each is trusted, in
// 0 .. 1. Those that are more like another than anyone honest should be get 0; one alone gets 1. When all are alike all
// get 0, and nothing is learned.
std::vector<double> FoolsGoldWeights(const PairMatrix& cosines);

}  // namespace heddle::aggregation
