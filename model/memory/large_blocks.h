// Memory for large arrays that come and go in the same sizes, as the tensors of a training step do. What is given back
// is kept for the next array of about its size instead of going back to the system, which would clear fresh pages for
// it (malloc maps and unmaps each array above its threshold), and no array splits another's place, which would leave
// holes (malloc below its threshold). Live and kept bytes together stay at or below (1 + spare) times the most that
// was live at one time since the last Release; where a fresh block would pass that, kept ones go back first, the
// longest unused before the others.
//
// Thread-safe. Blocks may be given back by another thread than took them, and after others. Blocks that are taken when
// the object ends stay mapped. Free of LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace heddle::model {

class LargeBlocks {
 public:
  // Whole pages, not cleared when they were used before. bytes: at least what was asked for.
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  // A kept block serves when it is larger by no more than an eighth. Sizes are rounded up to kGrain.
  static constexpr size_t kGrain = size_t{32} << 10;

  // spare: from 0 to 16.
  explicit LargeBlocks(double spare = 0) : spare_(spare) {}
  ~LargeBlocks() { Release(); }
  LargeBlocks(const LargeBlocks&) = delete;
  LargeBlocks& operator=(const LargeBlocks&) = delete;

  // No data when the system has no more memory, nothing kept being left to give. bytes: at least 1.
  Block Take(size_t bytes);
  // block: as Take returned it, once.
  void Give(Block block);
  // What is kept goes back to the system; the peak is counted anew.
  void Release();

  struct Usage {
    size_t live = 0, kept = 0, peak_live = 0;  // bytes; the peak since the last Release
    uint64_t mapped = 0;                       // blocks that came fresh from the system
  };
  Usage usage() const;

 private:
  struct Kept {
    void* data;
    uint64_t given;  // when, by count_
  };

  bool ReleaseOldest();  // false: nothing is kept

  const double spare_;
  mutable std::mutex mutex_;
  std::multimap<size_t, Kept> kept_;  // by size
  Usage usage_;
  uint64_t count_ = 0;
};

}  // namespace heddle::model
