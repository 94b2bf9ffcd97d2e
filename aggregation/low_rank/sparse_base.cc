#include "aggregation/low_rank/sparse_base.h"

#include <algorithm>
#include <map>

namespace heddle::aggregation::low_rank {

Result<std::vector<SparseDelta>> SparseDeltasOf(const StateDict& model, const std::vector<FactorPair>& pairs) {
  return FindSparseDeltas(model, [&](std::string_view path) -> std::optional<std::pair<int64_t, int64_t>> {
    const auto found = std::find_if(pairs.begin(), pairs.end(), [&](const FactorPair& p) { return p.path == path; });
    if (found == pairs.end()) return std::nullopt;
    return std::pair(static_cast<int64_t>(found->d), static_cast<int64_t>(found->k));
  });
}

Product ProductOf(const SparseDelta& delta) {
  const auto d = static_cast<size_t>(delta.out), k = static_cast<size_t>(delta.in);
  const std::span<const float> values = delta.values.values<float>();
  std::map<size_t, size_t> rows, columns;  // those that are not zero, and their order
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    rows.emplace(delta.places[i] / k, 0);
    columns.emplace(delta.places[i] % k, 0);
  }
  const bool by_rows = rows.size() < columns.size();
  std::map<size_t, size_t>& lines = by_rows ? rows : columns;
  Product out{Matrix(d, lines.size()), Matrix(k, lines.size())};
  Matrix& ones = by_rows ? out.left : out.right;
  Matrix& dense = by_rows ? out.right : out.left;
  size_t at = 0;
  for (auto& [line, order] : lines) {
    order = at++;
    ones(line, order) = 1;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    const size_t row = delta.places[i] / k, column = delta.places[i] % k;
    dense(by_rows ? column : row, lines.at(by_rows ? row : column)) = static_cast<double>(values[i]);
  }
  return out;
}

}  // namespace heddle::aggregation::low_rank
