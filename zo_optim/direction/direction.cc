#include "zo_optim/direction/direction.h"

#include <algorithm>

#include "common/assert.h"
#include "common/digest.h"
#include "common/random.h"
#include "zo_optim/direction/kernels.h"
#include "zo_optim/direction/pieces.h"

namespace heddle::zo {

const Kernels& KernelsOf(Path path) {
  switch (path) {
#if defined(__x86_64__)
    case Path::kAvx2:
      return kAvx2Kernels;
    case Path::kAvx512:
      return kAvx512Kernels;
#elif defined(__aarch64__)
    case Path::kNeon:
      return kNeonKernels;
#endif
    default:
      return kScalarKernels;
  }
}

uint64_t ParameterStream(std::string_view name) {
  constexpr std::string_view kZero("\0", 1);
  Sha256Hasher hasher;
  for (std::string_view part : {std::string_view("heddle"), kZero, std::string_view("direction"), kZero, name}) {
    hasher.Update(part);
  }
  const Sha256Digest digest = hasher.Finish();
  uint64_t stream = 0;
  for (size_t i = 0; i < 8; ++i) stream |= uint64_t{digest.bytes()[i]} << (8 * i);
  return stream;
}

float DirectionAt(const Direction& direction, uint64_t index) {
  const bool rademacher = direction.distribution == Distribution::kRademacher;
  const uint64_t n = rademacher ? index / 32 : index;
  const uint64_t block = n / 64 * 16 + n % 16;
  const uint32_t word = PhiloxStream(direction.seed, direction.stream).U32At(4 * block + n % 64 / 16);
  if (rademacher) return (word >> (index % 32) & 1U) == 0 ? 1.0F : -1.0F;
  return static_cast<float>(NormalUnits(word)) * 0x1p-13F;
}

std::vector<Path> SupportedPaths() {
  std::vector<Path> paths = {Path::kScalar};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) paths.push_back(Path::kAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) paths.push_back(Path::kAvx512);
#elif defined(__aarch64__)
  paths.push_back(Path::kNeon);
#endif
  return paths;
}

Path BestPath() {
  static const Path best = SupportedPaths().back();
  return best;
}

std::string_view PathName(Path path) {
  switch (path) {
    case Path::kAvx2:
      return "AVX2";
    case Path::kAvx512:
      return "AVX-512";
    case Path::kNeon:
      return "NEON";
    default:
      return "scalar";
  }
}

void FillDirection(const Direction& direction, uint64_t first, std::span<float> out, Path path) {
  const Kernels& kernels = KernelsOf(path);
  const auto fill = direction.distribution == Distribution::kRademacher ? kernels.fill_rademacher : kernels.fill_normal;
  ForEachPiece(
      kernels, direction, first, out.size(),
      [&](const uint32_t* words, size_t offset, size_t n) { fill(words, n, out.data() + offset); },
      [&](size_t i) { out[i] = DirectionAt(direction, first + i); });
}

void AddDirection(const Direction& direction, uint64_t first, float scale, std::span<float> weights, Path path) {
  const Kernels& kernels = KernelsOf(path);
  const auto add = direction.distribution == Distribution::kRademacher ? kernels.add_rademacher : kernels.add_normal;
  ForEachPiece(
      kernels, direction, first, weights.size(),
      [&](const uint32_t* words, size_t offset, size_t n) { add(words, n, scale, weights.data() + offset); },
      [&](size_t i) { weights[i] += scale * DirectionAt(direction, first + i); });
}

void AddDirections(Distribution distribution, uint64_t stream, std::span<const Step> steps, uint64_t first,
                   std::span<float> weights, Path path) {
  // The first block ends where a block of the direction does, so that none of the others is taken apart.
  for (size_t done = 0; done < weights.size();) {
    const uint64_t index = first + done;
    const size_t n = std::min<size_t>(weights.size() - done, kPiece - index % kPiece);
    const std::span<float> block = weights.subspan(done, n);
    for (const Step& step : steps) AddDirection({distribution, step.seed, stream}, index, step.scale, block, path);
    done += n;
  }
}

}  // namespace heddle::zo
