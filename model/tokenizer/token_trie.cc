#include "model/tokenizer/token_trie.h"

#include <algorithm>

namespace heddle::model {

TokenTrie::TokenTrie(std::vector<std::pair<std::string_view, int32_t>> entries) : root_(256, 0) {
  std::erase_if(entries, [](const auto& entry) { return entry.first.empty(); });
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  // A node is a range of entries that have their first `depth` bytes in common.
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> level = {{0, entries.size()}}, next;
  labels_.push_back(0);
  values_.push_back(-1);
  for (size_t depth = 0; !level.empty(); ++depth) {
    next.clear();
    for (Range range : level) {
      first_child_.push_back(static_cast<uint32_t>(labels_.size()));
      // Those that end here come first and are the node's own.
      while (range.begin < range.end && entries[range.begin].first.size() == depth) ++range.begin;
      while (range.begin < range.end) {
        const char label = entries[range.begin].first[depth];
        size_t end = range.begin;
        int32_t value = -1;
        for (; end < range.end && entries[end].first[depth] == label; ++end) {
          if (entries[end].first.size() == depth + 1) value = entries[end].second;
        }
        if (depth == 0) root_[static_cast<uint8_t>(label)] = static_cast<uint32_t>(labels_.size());
        labels_.push_back(static_cast<uint8_t>(label));
        values_.push_back(value);
        next.push_back({range.begin, end});
        range.begin = end;
      }
    }
    level.swap(next);
  }
  first_child_.push_back(static_cast<uint32_t>(labels_.size()));
}

uint32_t TokenTrie::Child(uint32_t node, uint8_t label) const {
  if (node == 0) return root_[label];
  const uint8_t* begin = labels_.data() + first_child_[node];
  const uint8_t* end = labels_.data() + first_child_[node + 1];
  const uint8_t* found = end - begin <= 8 ? std::find(begin, end, label) : std::lower_bound(begin, end, label);
  return found != end && *found == label ? static_cast<uint32_t>(found - labels_.data()) : 0;
}

TokenTrie::Match TokenTrie::Longest(std::string_view text) const {
  Match match;
  ForEachPrefix(text, [&](size_t length, int32_t value) { match = {length, value}; });
  return match;
}

}  // namespace heddle::model
