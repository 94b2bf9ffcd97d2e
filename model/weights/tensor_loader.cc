#include "model/weights/tensor_loader.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "common/assert.h"
#include "common/float_convert.h"

namespace heddle::model {
namespace {

constexpr int64_t kPiece = int64_t{1} << 20;       // elements whose pages are let go at once
constexpr size_t kOwnPagesFrom = size_t{4} << 20;  // bytes; smaller tensors come from the allocator

// Memory for `sizes`. A large tensor gets pages of its own, which go back to the system with it. (Not huge ones: on
// virtual machines whose host hands out memory late they were several times slower to come by.)
torch::Tensor Allocate(const Shape& sizes, at::ScalarType type) {
  const auto options = at::TensorOptions(type);
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type);
  if (bytes < kOwnPagesFrom) return at::empty(sizes, options);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return torch::from_blob(
      memory, sizes, [memory, bytes](void*) { ::munmap(memory, bytes); }, options);
}

// Has the pages that a piece will be written to made in one go: one by one, their faults take as long as the writing.
void PreparePages(void* begin, size_t bytes) {
#ifdef MADV_POPULATE_WRITE
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
  // Advice: a system that does not know it makes them as they are written to.
  ::madvise(reinterpret_cast<void*>(first), reinterpret_cast<uintptr_t>(begin) + bytes - first, MADV_POPULATE_WRITE);
#else
  (void)begin, (void)bytes;
#endif
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

const MappedFile* TensorLoader::FileOf(const Tensor& source) const {
  for (const auto& file : files_) {
    if (file->Holds(source.bytes())) return file.get();
  }
  return nullptr;
}

torch::Tensor TensorLoader::Dense(const Tensor& source, at::ScalarType type) const {
  HEDDLE_ASSERT(IsFloat(source.dtype()), "readers check the types first");
  torch::NoGradGuard no_grad;
  if (TorchType(source.dtype()) == type && IsAligned(source)) {
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
  const int64_t pieces = (source.numel() + kPiece - 1) / kPiece;
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * kPiece, count = std::min(kPiece, source.numel() - begin);
      if (out.nbytes() >= kOwnPagesFrom) {
        PreparePages(static_cast<std::byte*>(out.data_ptr()) + static_cast<size_t>(begin) * out.element_size(),
                     static_cast<size_t>(count) * out.element_size());
      }
      ConvertPiece(source, begin, count, type, out.data_ptr());
      if (file == nullptr) continue;
      const size_t size = DTypeSize(source.dtype());
      file->DropPages(source.bytes().subspan(static_cast<size_t>(begin) * size, static_cast<size_t>(count) * size));
    }
  });
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
  if (file != nullptr) file->DropPages(source.bytes());
  return matrix;
}

}  // namespace heddle::model
