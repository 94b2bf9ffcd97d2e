// Compiled without fused multiply-add: see CMakeLists.txt.
#include "simulator/partition/clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/random.h"
#include "simulator/partition/draws.h"

namespace heddle::simulator {
namespace {

constexpr size_t kColumns = 256;
constexpr int kPasses = 20;

bool IsWordByte(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 128;
}

// FNV-1a, then its high bits.
uint64_t HashOf(std::string_view word) {
  uint64_t hash = 14695981039346656037ULL;
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    hash = (hash ^ byte) * 1099511628211ULL;
  }
  return hash >> 32;
}

double Distance(const float* a, const double* b) {
  double sum = 0;
  for (size_t i = 0; i < kColumns; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

using Centres = std::vector<double>;  // kColumns numbers each

// The nearest centre, of equally near ones the first.
int32_t Nearest(const float* text, const Centres& centres, double* distance) {
  int32_t best = 0;
  *distance = std::numeric_limits<double>::infinity();
  for (size_t c = 0; c * kColumns < centres.size(); ++c) {
    const double d = Distance(text, &centres[c * kColumns]);
    if (d >= *distance) continue;
    *distance = d;
    best = static_cast<int32_t>(c);
  }
  return best;
}

// Each centre a text that is drawn with a probability that grows with the square of its distance to those before it.
Centres Start(const std::vector<float>& features, int32_t clusters, PhiloxStream& stream) {
  const size_t count = features.size() / kColumns;
  Centres centres;
  std::vector<double> distances(count, 1);
  for (int32_t c = 0; c < clusters; ++c) {
    double sum = 0;
    for (const double d : distances) sum += d;
    double left = OpenUniform(stream) * sum;
    size_t chosen = 0;
    for (size_t i = 0; i < count; ++i) {
      if (distances[i] <= 0) continue;
      chosen = i;
      left -= distances[i];
      if (left < 0) break;
    }
    const float* text = &features[chosen * kColumns];
    centres.insert(centres.end(), text, text + kColumns);
    for (size_t i = 0; i < count; ++i) Nearest(&features[i * kColumns], centres, &distances[i]);
  }
  return centres;
}

}  // namespace

std::vector<float> TextFeatures(std::string_view text) {
  std::vector<float> counts(kColumns, 0);
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin;
    while (end < text.size() && IsWordByte(static_cast<unsigned char>(text[end]))) ++end;
    if (end > begin) ++counts[HashOf(text.substr(begin, end - begin)) % kColumns];
    begin = end + 1;
  }
  double square = 0;
  for (const float count : counts) square += static_cast<double>(count) * count;
  if (square > 0) {
    for (float& count : counts) count = static_cast<float>(count / std::sqrt(square));
  }
  return counts;
}

Result<std::vector<int32_t>> ClusterTexts(int64_t count, int32_t clusters, uint64_t seed,
                                          const std::function<Result<std::string>(int64_t index)>& text) {
  if (clusters < 1 || clusters > count) {
    return InvalidArgument("there cannot be " + std::to_string(clusters) + " clusters of " + std::to_string(count) +
                           " texts");
  }
  std::vector<float> features;
  features.reserve(static_cast<size_t>(count) * kColumns);
  for (int64_t i = 0; i < count; ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string words, text(i));
    const std::vector<float> one = TextFeatures(words);
    features.insert(features.end(), one.begin(), one.end());
  }
  PhiloxStream stream(DeriveSeed(seed, "partition", "clusters"));
  Centres centres = Start(features, clusters, stream);
  std::vector<int32_t> of(static_cast<size_t>(count), -1);
  for (int pass = 0; pass < kPasses; ++pass) {
    bool changed = false;
    Centres sums(centres.size(), 0);
    std::vector<double> sizes(static_cast<size_t>(clusters), 0);
    for (size_t i = 0; i < of.size(); ++i) {
      double distance = 0;
      const int32_t nearest = Nearest(&features[i * kColumns], centres, &distance);
      changed = changed || nearest != of[i];
      of[i] = nearest;
      const auto c = static_cast<size_t>(nearest);
      ++sizes[c];
      for (size_t k = 0; k < kColumns; ++k) sums[c * kColumns + k] += features[i * kColumns + k];
    }
    if (!changed) break;
    for (size_t c = 0; c < sizes.size(); ++c) {
      for (size_t k = 0; k < kColumns && sizes[c] > 0; ++k)
        centres[c * kColumns + k] = sums[c * kColumns + k] / sizes[c];
    }
  }
  return of;
}

}  // namespace heddle::simulator
