// A base model of zeros and a recipe whose adapter has the wanted size: the coordinator looks at names, shapes and
// bytes only, so nothing is trained here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/status.h"

namespace heddle::bench {

// The adapter has factors for q_proj, k_proj, v_proj and o_proj: 32 * hidden * rank * layers bytes. A rank above the
// width would be refused.
struct SyntheticShape {
  int64_t hidden = 512;
  int64_t layers = 4;
  int64_t rank = 256;
};
inline SyntheticShape ShapeOf16MiB() { return {512, 4, 256}; }
inline SyntheticShape ShapeOf64MiB() { return {512, 8, 512}; }
inline SyntheticShape ShapeOf4KiB() { return {16, 1, 8}; }
inline SyntheticShape ShapeOf1KiB() { return {16, 1, 2}; }

struct SyntheticRun {
  std::filesystem::path recipe;     // a file for `heddle run submit`
  std::string update;               // an update that the recipe's aggregator takes: canonical safetensors
  uint64_t first_value_offset = 0;  // of a float in it that may be any number of magnitude below 1
};

// Writes base and recipe under `folder`. `tokenizer` is copied. Errors: those of files and of PrepareRun.
Result<SyntheticRun> MakeSyntheticRun(const std::filesystem::path& folder, const std::filesystem::path& tokenizer,
                                      const SyntheticShape& shape, uint32_t devices, uint32_t rounds);

}  // namespace heddle::bench
