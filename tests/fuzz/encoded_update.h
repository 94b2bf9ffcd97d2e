// What fuzz_encoded_update expects, shared with the program that writes its seeds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/state_dict.h"

namespace heddle::fuzz {

inline constexpr uint64_t kEncodedSeed = 4711;

inline StateDictSpec EncodedSpec() {
  return {
      {"a", {DType::kF32, {20, 15}}}, {"b", {DType::kF32, {3}}}, {"c", {DType::kF32, {}}}, {"d", {DType::kF32, {0}}}};
}

inline std::vector<std::vector<std::string>> EncodedStages() {
  return {{},
          {"bf16"},
          {"int8"},
          {"int4"},
          {"int2"},
          {"sign"},
          {"top_k:0.05"},
          {"top_k:0.5", "sign"},
          {"top_k:0.1", "int4"},
          {"random_mask:0.25"},
          {"random_mask:0.5", "top_k:0.2", "int2"},
          {"top_k:0.5", "random_mask:0.5", "bf16"},
          {"blocks:0.5"},
          {"nnadq:0.001"},
          {"blocks:0.99", "nnadq:0.1"}};
}

}  // namespace heddle::fuzz
