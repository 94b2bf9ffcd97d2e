// Which examples stand for the others: fast vote-k (Su et al., 2209.01975), as FeS picks what a device labels.
//
// Each example votes for its `neighbours` nearest others, by the cosine of their embeddings. Again and again the one
// with the highest score is taken: the sum over its voters that were not taken of 10^-c, c being how many examples that
// such a voter votes for were taken already. Ties go to the lower index. O(n^2 d) time. Pure; free of LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace heddle::client {

// `embeddings`: n rows of `width` numbers. Gives at most `count` indices in the order in which they were taken; all of
// them when there are no more. neighbours at least 1; with fewer others each votes for all of them.
std::vector<int64_t> VoteK(std::span<const float> embeddings, size_t width, size_t neighbours, size_t count);

}  // namespace heddle::client
