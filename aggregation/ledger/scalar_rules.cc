#include "aggregation/ledger/scalar_rules.h"

#include <algorithm>
#include <cmath>

#include "aggregation/robust/selection.h"

namespace heddle::aggregation {

int64_t RoundedRatio(Wide numerator, Wide denominator) {
  const bool negative = numerator < 0;
  const Wide size = negative ? -numerator : numerator;
  Wide whole = size / denominator;
  const Wide twice_rest = 2 * (size % denominator);
  if (twice_rest > denominator || (twice_rest == denominator && whole % 2 != 0)) ++whole;
  return static_cast<int64_t>(negative ? -whole : whole);
}

int64_t TrimmedMean(std::span<int64_t> values, double trim) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const size_t cut = std::min(static_cast<size_t>(trim * static_cast<double>(n)), (n - 1) / 2);
  Wide sum = 0;
  for (const int64_t value : values.subspan(cut, n - 2 * cut)) sum += value;
  return RoundedRatio(sum, static_cast<Wide>(n - 2 * cut));
}

size_t KrumRow(std::span<const std::vector<int64_t>> rows, size_t f) {
  PairMatrix distances(rows.size());
  for (size_t i = 1; i < rows.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      double sum = 0;
      for (size_t k = 0; k < rows[i].size(); ++k) {
        const auto difference = static_cast<double>(rows[i][k] - rows[j][k]);
        sum += difference * difference;
      }
      distances.at(i, j) = sum;
    }
  }
  const std::vector<double> scores = KrumScores(distances, f);
  return static_cast<size_t>(std::min_element(scores.begin(), scores.end()) - scores.begin());
}

}  // namespace heddle::aggregation
