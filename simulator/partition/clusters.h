// Clusters of like texts, for partitions by feature: k-means (Lloyd) over counts of words, hashed to 256 columns and
// scaled to length 1, started as k-means++ does (Arthur and Vassilvitskii, 2007). No model is needed, and the clusters
// are the same on every machine.
//
// Thread-safety: functions of their arguments.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::simulator {

// The features of a text: length 1, or all 0 of a text without a word. A word is a run of letters and digits (bytes
// above 127 count as letters), small letters and capitals alike.
std::vector<float> TextFeatures(std::string_view text);

// The cluster of each of `count` texts, from 0 to clusters - 1; clusters that lose all their texts stay empty. Memory:
// 1 KiB a text. Errors: those of `text`; kInvalidArgument: clusters below 1 or above count.
Result<std::vector<int32_t>> ClusterTexts(int64_t count, int32_t clusters, uint64_t seed,
                                          const std::function<Result<std::string>(int64_t index)>& text);

}  // namespace heddle::simulator
