// A set of byte strings with a number each, for "which of them begin here". Immutable after building; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace heddle::model {

class TokenTrie {
 public:
  TokenTrie() : TokenTrie(std::vector<std::pair<std::string_view, int32_t>>()) {}
  // Values must not be negative; of equal strings the last one counts. Empty strings are ignored. The strings are not
  // kept. Takes 9 bytes for each different beginning of a string.
  explicit TokenTrie(std::vector<std::pair<std::string_view, int32_t>> entries);

  struct Match {
    size_t length = 0;  // 0: none
    int32_t value = -1;
  };
  // The longest string that `text` begins with. O(its length).
  Match Longest(std::string_view text) const;
  // Calls found(length, value) for each string that `text` begins with, the shortest first.
  template <typename Found>
  void ForEachPrefix(std::string_view text, const Found& found) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = Child(node, static_cast<uint8_t>(text[i]));
      if (node == 0) return;
      if (values_[node] >= 0) found(i + 1, values_[node]);
    }
  }

 private:
  uint32_t Child(uint32_t node, uint8_t label) const;  // 0: none

  // Nodes in breadth-first order, 0 is the root; the children of n are first_child_[n] to first_child_[n + 1] - 1, by
  // label.
  std::vector<uint32_t> first_child_;
  std::vector<uint8_t> labels_;
  std::vector<int32_t> values_;
  std::vector<uint32_t> root_;  // label -> child
};

}  // namespace heddle::model
