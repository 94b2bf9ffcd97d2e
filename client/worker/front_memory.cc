#include "client/worker/front_memory.h"

#include <algorithm>

namespace heddle::client {
namespace {

constexpr uint64_t kOverhead = 256;  // of an entry: the tensor, its key and their place in the table, about

}  // namespace

FrontMemory::Front* FrontMemory::Use(const std::string& identity) {
  const auto found = std::find_if(fronts_.begin(), fronts_.end(),
                                  [&identity](const Front& front) { return front.identity == identity; });
  if (found == fronts_.end()) return nullptr;
  fronts_.splice(fronts_.begin(), fronts_, found);
  return &fronts_.front();
}

torch::Tensor FrontMemory::Find(const std::string& identity, const Sha256Digest& example) {
  const std::lock_guard lock(mutex_);
  const Front* front = Use(identity);
  if (front == nullptr) return {};
  const auto found = front->examples.find(example);
  if (found == front->examples.end()) return {};
  ++found_;
  return found->second;
}

void FrontMemory::Keep(const std::string& identity, const Sha256Digest& example, const torch::Tensor& stream,
                       uint64_t limit) {
  const uint64_t bytes = static_cast<uint64_t>(stream.numel()) * stream.element_size() + kOverhead;
  const std::lock_guard lock(mutex_);
  Front* front = Use(identity);
  if (front == nullptr) {
    if (bytes > limit) return;
    fronts_.push_front({.identity = identity, .examples = {}});
    front = &fronts_.front();
  }
  while (bytes_ + bytes > limit && fronts_.size() > 1) {
    bytes_ -= fronts_.back().bytes;
    fronts_.pop_back();
  }
  if (bytes_ + bytes > limit || !front->examples.emplace(example, stream).second) return;
  front->bytes += bytes;
  bytes_ += bytes;
}

void FrontMemory::Shrink(uint64_t limit) {
  const std::lock_guard lock(mutex_);
  while (bytes_ > limit) {
    bytes_ -= fronts_.back().bytes;
    fronts_.pop_back();
  }
}

uint64_t FrontMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

uint64_t FrontMemory::found() const {
  const std::lock_guard lock(mutex_);
  return found_;
}

}  // namespace heddle::client
