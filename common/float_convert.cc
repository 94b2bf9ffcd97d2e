#include "common/float_convert.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "common/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HEDDLE_HAS_AVX2 1
#define HEDDLE_AVX2 __attribute__((target("avx2,f16c")))
#endif

namespace heddle {
namespace {

// Elements at a time: a count that the compiler knows, and vectors that stay in the nearest cache.
constexpr size_t kPiece = 256;

template <typename T>
T Load(const std::byte* in) {
  T value;
  std::memcpy(&value, in, sizeof value);
  return value;
}

void HalvesToFloats(const std::byte* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = HalfToFloat(Load<uint16_t>(in + 2 * i));
}
void BfloatsToFloats(const std::byte* in, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = Bfloat16ToFloat(Load<uint16_t>(in + 2 * i));
}
void FloatsToBfloats(const float* in, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = FloatToBfloat16(in[i]);
}

#ifdef HEDDLE_HAS_AVX2

HEDDLE_AVX2 void HalvesToFloatsAvx2(const std::byte* in, size_t count, float* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i))));
  }
  HalvesToFloats(in + 2 * i, count - i, out + i);
}

HEDDLE_AVX2 void BfloatsToFloatsAvx2(const std::byte* in, size_t count, float* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i));
    _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
  }
  BfloatsToFloats(in + 2 * i, count - i, out + i);
}

HEDDLE_AVX2 void FloatsToBfloatsAvx2(const float* in, size_t count, uint16_t* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 values = _mm256_loadu_ps(in + i);
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_castsi256_si128(packed));
  }
  FloatsToBfloats(in + i, count - i, out + i);
}

#endif

struct Loops {
  void (*halves)(const std::byte*, size_t, float*) = HalvesToFloats;
  void (*bfloats)(const std::byte*, size_t, float*) = BfloatsToFloats;
  void (*to_bfloats)(const float*, size_t, uint16_t*) = FloatsToBfloats;
};

const Loops& Chosen() {
  static const Loops loops = [] {
    Loops chosen;
#ifdef HEDDLE_HAS_AVX2
    // Every processor with AVX2 converts halves (F16C) too.
    if (__builtin_cpu_supports("avx2")) chosen = {HalvesToFloatsAvx2, BfloatsToFloatsAvx2, FloatsToBfloatsAvx2};
#endif
    return chosen;
  }();
  return loops;
}

}  // namespace

float HalfToFloat(uint16_t half) {
  uint32_t sign = uint32_t{half} >> 15 << 31;
  uint32_t exponent = half >> 10 & 31;
  uint32_t mantissa = half & 0x3FF;
  if (exponent == 31) {  // infinity; NaN, which conversion makes a quiet one
    return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13 | (mantissa != 0 ? 0x400000U : 0U));
  }
  if (exponent == 0) {  // zero, subnormal: exact in float
    float value = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

void ConvertToFloat(DType from, const std::byte* in, size_t count, float* out) {
  HEDDLE_ASSERT(IsFloat(from), "a float type");
  if (count == 0) return;
  if (from == DType::kF32) {
    std::memcpy(out, in, count * sizeof(float));
  } else if (from == DType::kF16) {
    Chosen().halves(in, count, out);
  } else if (from == DType::kBF16) {
    Chosen().bfloats(in, count, out);
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(Load<double>(in + 8 * i));
  }
}

void ConvertToBfloat16(DType from, const std::byte* in, size_t count, uint16_t* out) {
  HEDDLE_ASSERT(IsFloat(from), "a float type");
  if (count == 0) return;
  if (from == DType::kBF16) {
    std::memcpy(out, in, count * sizeof(uint16_t));
    return;
  }
  std::array<float, kPiece> floats;
  for (size_t begin = 0; begin < count; begin += kPiece) {
    const size_t part = std::min(kPiece, count - begin);
    ConvertToFloat(from, in + begin * DTypeSize(from), part, floats.data());
    Chosen().to_bfloats(floats.data(), part, out + begin);
  }
}

// In one pass without branches, which compilers make wide.
bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000U;  // all ones: infinite or NaN
  uint32_t bad = 0;
  for (const float value : values) bad |= (std::bit_cast<uint32_t>(value) & kExponent) == kExponent ? 1U : 0U;
  return bad == 0;
}

}  // namespace heddle
