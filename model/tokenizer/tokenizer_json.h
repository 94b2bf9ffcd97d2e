// Reads tokenizer.json into plain parts. Internal to the tokenizer. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/added_tokens.h"

namespace heddle::model {

struct TokenizerParts {
  struct Merge {
    int32_t left, right, merged;
  };
  std::array<int32_t, 256> byte_ids{};
  std::vector<Merge> merges;                       // in order of rank
  std::unordered_map<std::string, int32_t> vocab;  // bytes -> id
  std::vector<std::string> bytes_of;               // by id; empty where an id is not used
  AddedTokens unnormalized{{}}, normalized{{}};    // found in this order
  bool add_prefix_space = false, use_regex = true, ignore_merges = false;
  int32_t bos = -1, eos = -1;
};

// Errors: kInvalidArgument (malformed, or inconsistent, and where); kUnimplemented (a part that is not supported).
Result<TokenizerParts> ParseTokenizerJson(std::string_view text);
// Sets bos and eos from bos_token and eos_token of tokenizer_config.json. Errors: kInvalidArgument.
Status ApplyTokenizerConfig(std::string_view text, TokenizerParts* parts);

}  // namespace heddle::model
