// What LibTorch asks of memory, counted: for tests and benchmarks of what a training step allocates.
//
// Install once a process; from then on all counts are for the whole process, of what was asked for since, and
// thread-safe. Include only from translation units of targets with TORCH.
#pragma once

#include <c10/core/CPUAllocator.h>
#include <torch/version.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace heddle {

class CountingAllocator final : public at::Allocator {
 public:
  struct Counts {
    int64_t allocations = 0;  // made so far
    int64_t live_bytes = 0;   // held now
  };

  static CountingAllocator& Install() {
    static CountingAllocator* const counting = [] {
      auto* one =
          new CountingAllocator(c10::GetCPUAllocator());  // for the life of the process, as tensors' deleters are
      c10::SetCPUAllocator(one, /*priority=*/100);
      return one;
    }();
    return *counting;
  }

  Counts now() const { return {allocations_, live_bytes_}; }
  // The most that was held at one time since the last ForgetPeak.
  int64_t peak_bytes() const { return peak_bytes_; }
  void ForgetPeak() { peak_bytes_ = live_bytes_.load(); }

#if TORCH_VERSION_MAJOR >= 2
  at::DataPtr allocate(size_t bytes) override { return Counted(bytes); }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
#else
  at::DataPtr allocate(size_t bytes) const override { return Counted(bytes); }
#endif

 private:
  struct Held {
    void* context;
    c10::DeleterFnPtr deleter;
    int64_t bytes;
  };
  explicit CountingAllocator(at::Allocator* inner) : inner_(inner) {}

  // The pointer is its own context, as LibTorch wants it of what it allocates without a DataPtr.
  at::DataPtr Counted(size_t bytes) const {
    at::DataPtr data = inner_->allocate(bytes);
    void* const place = data.get();
    const auto device = data.device();
    ++allocations_;
    if (place == nullptr) return data;
    const c10::DeleterFnPtr deleter = data.get_deleter();
    const int64_t live = live_bytes_ += static_cast<int64_t>(bytes);
    for (int64_t peak = peak_bytes_; live > peak && !peak_bytes_.compare_exchange_weak(peak, live);) {
    }
    std::lock_guard lock(mutex_);
    held_[place] = {data.release_context(), deleter, static_cast<int64_t>(bytes)};
    return {place, place, &Release, device};
  }
  static void Release(void* place) {
    CountingAllocator& one = Install();
    Held held;
    {
      std::lock_guard lock(one.mutex_);
      const auto found = one.held_.find(place);
      // Memory of before Install, which LibTorch gives back to whoever is there now.
      if (found == one.held_.end()) return one.inner_->raw_deleter()(place);
      held = found->second;
      one.held_.erase(found);
    }
    one.live_bytes_ -= held.bytes;
    held.deleter(held.context);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Release; }

  at::Allocator* inner_;
  mutable std::atomic<int64_t> allocations_ = 0, live_bytes_ = 0, peak_bytes_ = 0;
  mutable std::mutex mutex_;
  mutable std::unordered_map<void*, Held> held_;
};

}  // namespace heddle
