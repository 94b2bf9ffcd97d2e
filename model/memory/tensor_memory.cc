#include "model/memory/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdlib>
#include <cstring>

#include "model/memory/large_blocks.h"

namespace heddle::model {
namespace {

constexpr size_t kLarge = size_t{256} << 10;

// Stands before each array, so that an array is freed by its address alone and keeps an alignment of 64 bytes.
struct alignas(64) Head {
  size_t block_bytes = 0;  // 0: from malloc
};

double& Spare() {
  static double spare = 0;
  return spare;
}

// Lives as long as the process: tensors may be freed while it ends.
LargeBlocks& Blocks() {
  static auto& blocks = *new LargeBlocks(Spare());
  return blocks;
}

void Free(void* array) {
  if (array == nullptr) return;
  Head* head = static_cast<Head*>(array) - 1;
  if (head->block_bytes == 0) {
    std::free(head);
  } else {
    Blocks().Give({head, head->block_bytes});
  }
}

void* Allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > SIZE_MAX / 2) return nullptr;
  void* begin = nullptr;
  size_t block_bytes = 0;
  if (bytes + sizeof(Head) >= kLarge) {
    const LargeBlocks::Block block = Blocks().Take(bytes + sizeof(Head));
    begin = block.data;
    block_bytes = block.bytes;
  } else if (::posix_memalign(&begin, alignof(Head), bytes + sizeof(Head)) != 0) {
    begin = nullptr;
  }
  if (begin == nullptr) return nullptr;
  return new (begin) Head{block_bytes} + 1;
}

// LibTorch 2.3 took the const from allocate and added copy_data: of the two allocate here, one overrides and the other
// is never called, which is why none says override.
struct TensorMemory : at::Allocator {
  at::DataPtr allocate(size_t bytes) const { return Make(bytes); }
  at::DataPtr allocate(size_t bytes) { return Make(bytes); }
  at::DeleterFnPtr raw_deleter() const { return &Free; }
  void copy_data(void* to, const void* from, size_t bytes) const { std::memcpy(to, from, bytes); }

 private:
  static at::DataPtr Make(size_t bytes) {
    void* array = Allocate(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, array != nullptr || bytes == 0, "there is no memory for a tensor of ", bytes,
                     " bytes");
    return {array, array, &Free, at::Device(at::DeviceType::CPU)};
  }
};

}  // namespace

void UseTensorMemory(double spare) {
  [[maybe_unused]] static const bool once = [spare] {
    Spare() = spare;
    at::SetAllocator(at::DeviceType::CPU, new TensorMemory, /*priority=*/1);
    return true;
  }();
}

void ReleaseTensorMemory() {
  Blocks().Release();
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace heddle::model
