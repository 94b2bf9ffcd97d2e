#include "aggregation/layer_choice.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string>

namespace heddle::aggregation {

LayerChoice LayerChoiceOf(const StateDictSpec& model) {
  LayerChoice choice;
  const auto scores = model.find(kLayerScoresName);
  if (scores == model.end() || scores->second.shape.size() != 1) return choice;
  choice.layers = scores->second.shape[0];
  for (auto it = model.lower_bound(kTravelsPrefix); it != model.end() && it->first.starts_with(kTravelsPrefix); ++it) {
    const char* begin = it->first.data() + kTravelsPrefix.size();
    const char* end = it->first.data() + it->first.size();
    int64_t layer = 0;
    if (std::from_chars(begin, end, layer) != std::from_chars_result{end, {}}) continue;
    if (layer >= 0 && layer < choice.layers) choice.travels.push_back(layer);
  }
  std::sort(choice.travels.begin(), choice.travels.end());
  return choice;
}

std::vector<int64_t> TravellingColumns(const LayerChoice& choice, int64_t width) {
  std::vector<int64_t> columns;
  const int64_t each = choice.layers > 0 ? width / choice.layers : width;
  for (int64_t layer = 0; layer < std::max<int64_t>(choice.layers, 1); ++layer) {
    const bool all = choice.travels.empty();
    if (!all && !std::binary_search(choice.travels.begin(), choice.travels.end(), layer)) continue;
    for (int64_t c = 0; c < each; ++c) columns.push_back(layer * each + c);
  }
  return columns;
}

std::vector<int64_t> ChooseLayers(std::span<const double> scores, uint32_t count) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto score = [&](int64_t layer) { return scores[static_cast<size_t>(layer)]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score(a) > score(b); });
  size_t kept = std::min<size_t>(count, order.size());
  if (count == 0) {
    kept = std::min<size_t>(1, order.size());
    double widest = -1;
    for (size_t k = 1; k < order.size(); ++k) {
      const double gap = score(order[k - 1]) - score(order[k]);
      if (gap > widest) {
        widest = gap;
        kept = k;
      }
    }
  }
  order.resize(kept);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace heddle::aggregation
