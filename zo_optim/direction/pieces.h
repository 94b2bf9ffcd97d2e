// Cuts a slice of a direction into pieces whose words fit into the cache. Internal.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "zo_optim/direction/direction.h"
#include "zo_optim/direction/kernels.h"

namespace heddle::zo {

// Elements of one piece of work: the words of a normal direction and the weights they go to fit into 48 KiB together.
inline constexpr size_t kPiece = 4096;

// Hands `use` the words of each piece of [first, first + count): `use(words, offset, n)` for n elements from `offset`
// on, which begin with the first bit of the first word, or, when they do not, are one at a time.
template <typename Whole, typename Single>
void ForEachPiece(const Kernels& kernels, const Direction& direction, uint64_t first, size_t count, Whole whole,
                  Single single) {
  const size_t per_word = direction.distribution == Distribution::kRademacher ? 32 : 1;
  const size_t per_group = kGroupWords * per_word;
  std::array<uint32_t, kPiece + kGroupWords> words;
  size_t done = 0;
  while (done < count && (first + done) % per_word != 0) single(done++);
  while (done < count) {
    const uint64_t index = first + done;
    const uint64_t group = index / per_group;
    const size_t skipped = static_cast<size_t>(index % per_group) / per_word;  // words
    const size_t n = std::min(count - done, (words.size() / kGroupWords * kGroupWords - skipped) * per_word);
    const size_t groups = (skipped + (n + per_word - 1) / per_word + kGroupWords - 1) / kGroupWords;
    kernels.words(direction.seed, direction.stream, group, groups, words.data());
    whole(words.data() + skipped, done, n);
    done += n;
  }
}

}  // namespace heddle::zo
