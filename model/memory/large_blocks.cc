#include "model/memory/large_blocks.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>

#include "common/assert.h"

namespace heddle::model {
namespace {

void* Map(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

void Unmap(void* data, size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  ::munmap(data, bytes);
}

// AddressSanitizer sees who touches what is kept, or what lies beyond the bytes that were asked for.
LargeBlocks::Block Open(LargeBlocks::Block block, [[maybe_unused]] size_t asked) {
  ASAN_UNPOISON_MEMORY_REGION(block.data, asked);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block.data) + asked, block.bytes - asked);
  return block;
}

}  // namespace

LargeBlocks::Block LargeBlocks::Take(size_t bytes) {
  HEDDLE_ASSERT(bytes > 0, "a block has bytes");
  if (bytes > SIZE_MAX / 2) return {};
  const size_t wanted = (bytes + kGrain - 1) / kGrain * kGrain;
  const std::lock_guard lock(mutex_);
  if (const auto found = kept_.lower_bound(wanted); found != kept_.end() && found->first <= wanted + wanted / 8) {
    const Block block{found->second.data, found->first};
    kept_.erase(found);
    usage_.kept -= block.bytes;
    usage_.live += block.bytes;
    usage_.peak_live = std::max(usage_.peak_live, usage_.live);
    return Open(block, bytes);
  }
  const size_t peak = std::max(usage_.peak_live, usage_.live + wanted);
  const auto most = static_cast<size_t>((1 + spare_) * static_cast<double>(peak));
  while (usage_.live + usage_.kept + wanted > most && ReleaseOldest()) {
  }
  void* data = Map(wanted);
  while (data == nullptr && ReleaseOldest()) data = Map(wanted);
  if (data == nullptr) return {};
  usage_.live += wanted;
  usage_.peak_live = std::max(usage_.peak_live, usage_.live);
  ++usage_.mapped;
  return Open({data, wanted}, bytes);
}

void LargeBlocks::Give(Block block) {
  const std::lock_guard lock(mutex_);
  HEDDLE_ASSERT(block.data != nullptr && block.bytes <= usage_.live, "a block is given back once");
  usage_.live -= block.bytes;
  usage_.kept += block.bytes;
  ASAN_POISON_MEMORY_REGION(block.data, block.bytes);
  kept_.emplace(block.bytes, Kept{block.data, count_++});
}

bool LargeBlocks::ReleaseOldest() {
  const auto oldest = std::min_element(kept_.begin(), kept_.end(),
                                       [](const auto& a, const auto& b) { return a.second.given < b.second.given; });
  if (oldest == kept_.end()) return false;
  Unmap(oldest->second.data, oldest->first);
  usage_.kept -= oldest->first;
  kept_.erase(oldest);
  return true;
}

void LargeBlocks::Release() {
  const std::lock_guard lock(mutex_);
  for (const auto& [bytes, block] : kept_) Unmap(block.data, bytes);
  kept_.clear();
  usage_.kept = 0;
  usage_.peak_live = usage_.live;
}

LargeBlocks::Usage LargeBlocks::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

}  // namespace heddle::model
