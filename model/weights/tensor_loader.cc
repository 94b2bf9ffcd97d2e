#include "model/weights/tensor_loader.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "common/assert.h"
#include "common/float_convert.h"

namespace heddle::model {
namespace {

constexpr size_t kOwnPagesFrom = size_t{4} << 20;  // bytes; smaller tensors come from the allocator
constexpr size_t kHugePage = size_t{2} << 20;      // bytes
// Bytes that a thread makes and whose source it lets go at once: whole huge pages, and few, so that the threads have
// equal shares also of a matrix of a million weights.
constexpr size_t kPiece = kHugePage;
// Bytes. Smaller tensors are copied: one used in place would keep its page of the file, which may be a huge one.
constexpr size_t kInPlaceFrom = size_t{64} << 10;
// Huge pages take 0.05 ns of the processor a byte to come by, ordinary ones ten times that; but huge ones that a
// virtual machine's host has yet to hand out take 2.5 ns.
constexpr double kSlowNsPerByte = 1;

// Memory for `sizes`. A large tensor gets pages of its own, from the beginning of a huge one, which go back to the
// system with it.
torch::Tensor Allocate(const Shape& sizes, at::ScalarType type) {
  const auto options = at::TensorOptions(type);
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type);
  if (bytes < kOwnPagesFrom) return at::empty(sizes, options);
  const size_t reserved = bytes + kHugePage;
  void* memory = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  const uintptr_t start = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  return torch::from_blob(
      reinterpret_cast<void*>(start), sizes, [memory, reserved](void*) { ::munmap(memory, reserved); }, options);
}

// Of this thread's processor time: a wait for the host counts in it, one for other threads does not.
double ThreadNanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

// Has the pages that a piece will be written to made in one go: one by one, their faults take as long as the writing.
// All of it is advice: a system that does not know it makes pages as they are written to.
void PreparePages(void* begin, size_t bytes, HugePagePolicy* policy) {
#ifdef MADV_POPULATE_WRITE
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(begin) + bytes;
  // Whole ones only, so that no more memory is taken than is written to.
  const uintptr_t first_huge = (first + kHugePage - 1) / kHugePage * kHugePage, end_huge = end / kHugePage * kHugePage;
  const bool huge = first_huge < end_huge && policy->Try();
  if (huge) ::madvise(reinterpret_cast<void*>(first_huge), end_huge - first_huge, MADV_HUGEPAGE);
  const double started = ThreadNanoseconds();
  ::madvise(reinterpret_cast<void*>(first), end - first, MADV_POPULATE_WRITE);
  if (huge) policy->Tell(ThreadNanoseconds() - started < kSlowNsPerByte * static_cast<double>(bytes));
#else
  (void)begin, (void)bytes, (void)policy;
#endif
}

// Lets go of what was read of the file for a tensor. The system may have mapped whole huge pages for a few bytes of it:
// what is dropped reaches to their borders, and a neighbour that is still read comes back by itself.
void DropRead(const MappedFile& file, std::span<const std::byte> part) {
  const auto whole = reinterpret_cast<uintptr_t>(file.bytes().data());
  const uintptr_t begin = reinterpret_cast<uintptr_t>(part.data()), end = begin + part.size();
  const uintptr_t first = std::max(begin / kHugePage * kHugePage, whole);
  const uintptr_t last = std::min((end + kHugePage - 1) / kHugePage * kHugePage, whole + file.bytes().size());
  file.DropPages(file.bytes().subspan(first - whole, last - first));
}

bool IsAligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.bytes().data()) % DTypeSize(tensor.dtype()) == 0;
}

// Elements [begin, begin + count) of `in` to `out`, which is of `type`.
void ConvertPiece(const Tensor& in, int64_t begin, int64_t count, at::ScalarType type, void* out) {
  const std::byte* from = in.bytes().data() + static_cast<size_t>(begin) * DTypeSize(in.dtype());
  const auto n = static_cast<size_t>(count);
  if (type == at::kFloat) {
    ConvertToFloat(in.dtype(), from, n, static_cast<float*>(out) + begin);
  } else if (type == at::kBFloat16) {
    ConvertToBfloat16(in.dtype(), from, n, static_cast<uint16_t*>(out) + begin);
  } else {
    HEDDLE_ASSERT(TorchType(in.dtype()) == type, "a type that is copied as it is");
    std::memcpy(static_cast<std::byte*>(out) + static_cast<size_t>(begin) * DTypeSize(in.dtype()), from,
                n * DTypeSize(in.dtype()));
  }
}

}  // namespace

at::ScalarType TorchType(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF64:
      return at::kDouble;
    default:
      HEDDLE_ASSERT(dtype == DType::kF32, "a float type");
      return at::kFloat;
  }
}

bool HugePagePolicy::Try() {
  if (left_ <= 0) return true;
  --left_;
  return false;
}

void HugePagePolicy::Tell(bool fast) {
  pause_ = fast ? 0 : std::min(2 * pause_ + 1, kLongestPause);
  left_ = pause_.load();
}

const MappedFile* TensorLoader::FileOf(const Tensor& source) const {
  for (const auto& file : files_) {
    if (file->Holds(source.bytes())) return file.get();
  }
  return nullptr;
}

torch::Tensor TensorLoader::Dense(const Tensor& source, at::ScalarType type) const {
  HEDDLE_ASSERT(IsFloat(source.dtype()), "readers check the types first");
  torch::NoGradGuard no_grad;
  if (TorchType(source.dtype()) == type && IsAligned(source) && source.bytes().size() >= kInPlaceFrom) {
    return torch::from_blob(
        const_cast<std::byte*>(source.bytes().data()), source.shape(), [owner = source.owner()](void*) {},
        at::TensorOptions(type));
  }
  if (type != at::kFloat && type != at::kBFloat16 && TorchType(source.dtype()) != type) {
    return Dense(source, at::kFloat).to(type);  // rarely wanted: checks in float64
  }
  torch::Tensor out = Allocate(source.shape(), type);
  const MappedFile* file = FileOf(source);
  if (file != nullptr) file->WillRead(source.bytes());
  const auto piece = static_cast<int64_t>(kPiece / out.element_size());  // elements
  const int64_t pieces = (source.numel() + piece - 1) / piece;
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * piece, count = std::min(piece, source.numel() - begin);
      if (out.nbytes() >= kOwnPagesFrom) {
        PreparePages(static_cast<std::byte*>(out.data_ptr()) + static_cast<size_t>(begin) * out.element_size(),
                     static_cast<size_t>(count) * out.element_size(), &huge_pages_);
      }
      ConvertPiece(source, begin, count, type, out.data_ptr());
      if (file == nullptr) continue;
      const size_t size = DTypeSize(source.dtype());
      file->DropPages(source.bytes().subspan(static_cast<size_t>(begin) * size, static_cast<size_t>(count) * size));
    }
  });
  if (file != nullptr) DropRead(*file, source.bytes());
  return out;
}

Result<std::shared_ptr<const QuantizedMatrix>> TensorLoader::Quantized(const Tensor& source, QuantKind kind) const {
  HEDDLE_ASSERT(IsFloat(source.dtype()) && source.shape().size() == 2, "readers check types and shapes first");
  const MappedFile* file = FileOf(source);
  if (file != nullptr) file->WillRead(source.bytes());
  const size_t size = DTypeSize(source.dtype());
  const auto read = [&](int64_t begin, int64_t count, float* out) {
    ConvertToFloat(source.dtype(), source.bytes().data() + static_cast<size_t>(begin) * size,
                   static_cast<size_t>(count), out);
  };
  auto matrix = QuantizedMatrix::Quantize(source.shape()[0], source.shape()[1], kind, read);
  if (file != nullptr) DropRead(*file, source.bytes());
  return matrix;
}

}  // namespace heddle::model
