// What LibTorch asks of memory, counted: for tests and benchmarks of what a training step allocates.
//
// Install once a process, before tensors are made; from then on all counts are for the whole process and thread-safe.
// Include only from translation units of targets with TORCH.
#pragma once

#include <c10/core/CPUAllocator.h>
#include <torch/version.h>

#include <atomic>
#include <cstdint>

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

#if TORCH_VERSION_MAJOR >= 2
  at::DataPtr allocate(size_t bytes) override { return Counted(bytes); }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
#else
  at::DataPtr allocate(size_t bytes) const override { return Counted(bytes); }
#endif

 private:
  struct Held {
    at::DataPtr data;
    const CountingAllocator* owner;
    int64_t bytes;
  };
  explicit CountingAllocator(at::Allocator* inner) : inner_(inner) {}

  at::DataPtr Counted(size_t bytes) const {
    at::DataPtr data = inner_->allocate(bytes);
    void* const place = data.get();
    const auto device = data.device();
    ++allocations_;
    live_bytes_ += static_cast<int64_t>(bytes);
    auto* held = new Held{std::move(data), this, static_cast<int64_t>(bytes)};
    return {place, held, &Release, device};
  }
  static void Release(void* context) {
    auto* held = static_cast<Held*>(context);
    held->owner->live_bytes_ -= held->bytes;
    delete held;
  }

  at::Allocator* inner_;
  mutable std::atomic<int64_t> allocations_ = 0, live_bytes_ = 0;
};

}  // namespace heddle
