#include "client/worker/vote_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/assert.h"

namespace heddle::client {
namespace {

// Of each example, those that it votes for.
std::vector<std::vector<size_t>> Votes(std::span<const float> embeddings, size_t width, size_t neighbours) {
  const size_t n = embeddings.size() / width;
  const auto dot = [&](size_t i, size_t j) {
    double sum = 0;
    for (size_t k = 0; k < width; ++k) {
      sum += static_cast<double>(embeddings[i * width + k]) * static_cast<double>(embeddings[j * width + k]);
    }
    return sum;
  };
  std::vector<double> length(n);
  for (size_t i = 0; i < n; ++i) length[i] = std::sqrt(dot(i, i));
  std::vector<std::vector<size_t>> votes(n);
  std::vector<double> likeness(n);
  for (size_t i = 0; i < n; ++i) {
    std::vector<size_t> others;
    for (size_t j = 0; j < n; ++j) {
      if (j == i) continue;
      const double lengths = length[i] * length[j];
      likeness[j] = lengths > 0 ? dot(i, j) / lengths : 0;
      others.push_back(j);
    }
    const size_t kept = std::min(neighbours, others.size());
    std::partial_sort(
        others.begin(), others.begin() + static_cast<std::ptrdiff_t>(kept), others.end(),
        [&](size_t a, size_t b) { return likeness[a] > likeness[b] || (likeness[a] == likeness[b] && a < b); });
    others.resize(kept);
    votes[i] = std::move(others);
  }
  return votes;
}

}  // namespace

std::vector<int64_t> VoteK(std::span<const float> embeddings, size_t width, size_t neighbours, size_t count) {
  HEDDLE_ASSERT(width > 0 && embeddings.size() % width == 0 && neighbours > 0, "embeddings are rows of one width");
  const size_t n = embeddings.size() / width;
  std::vector<std::vector<size_t>> voters(n);
  const std::vector<std::vector<size_t>> votes = Votes(embeddings, width, neighbours);
  for (size_t i = 0; i < n; ++i) {
    for (const size_t candidate : votes[i]) voters[candidate].push_back(i);
  }
  std::vector<uint32_t> covered(n, 0);
  std::vector<bool> taken(n, false);
  std::vector<int64_t> out;
  while (out.size() < std::min(count, n)) {
    size_t best = n;
    double best_score = -1;
    for (size_t i = 0; i < n; ++i) {
      if (taken[i]) continue;
      double score = 0;
      for (const size_t voter : voters[i]) {
        if (!taken[voter]) score += std::pow(10.0, -static_cast<double>(covered[voter]));
      }
      if (score > best_score) {
        best = i;
        best_score = score;
      }
    }
    taken[best] = true;
    out.push_back(static_cast<int64_t>(best));
    for (const size_t voter : voters[best]) ++covered[voter];
  }
  return out;
}

}  // namespace heddle::client
