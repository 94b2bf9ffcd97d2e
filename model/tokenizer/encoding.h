// A text, or a pair of texts, as a model takes it: ids with token types and masks; truncation and padding. Plain
// values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"

namespace heddle::model {

// Vectors of equal length.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;        // which text a token belongs to, as the model counts them
  std::vector<uint8_t> attention_mask;  // 0: padding
  std::vector<uint8_t> special_mask;    // 1: not of the text: [CLS], </s>, padding

  size_t size() const { return ids.size(); }
  void Append(int32_t id, int32_t type_id, bool special);
};

enum class Truncation {
  kLongestFirst,  // of a pair, the longer text until both are equal
  kOnlyFirst,
  kOnlySecond,
};
enum class Side { kRight, kLeft };

struct EncodeOptions {
  bool add_special_tokens = true;
  // Most tokens with the special ones; 0: as many as there are. Tokens of the text go, special ones never.
  int64_t max_length = 0;
  Truncation truncation = Truncation::kLongestFirst;
  Side truncation_side = Side::kRight;  // where tokens are taken away
};

// Cuts the ids of a text, or of a pair (`second` not null), to `max_tokens` together. Of a pair under kLongestFirst
// that both are too long, an odd token goes to the text that is longer, and to the second when they are equal. Errors:
// kInvalidArgument (max_tokens is negative; the one text that may be cut is missing, or too short for what must go).
Status Truncate(int64_t max_tokens, const EncodeOptions& options, std::vector<int32_t>* first,
                std::vector<int32_t>* second);

struct PaddingOptions {
  int32_t pad_id = 0;
  int32_t pad_type_id = 0;
  int64_t length = 0;       // at least this long; 0: as the longest of the batch
  int64_t multiple_of = 1;  // then up to a multiple of this
  Side side = Side::kRight;
};

// Makes all of equal length. Nothing is cut: one that is longer than `length` makes all as long.
void Pad(const PaddingOptions& options, std::span<Encoding> batch);

}  // namespace heddle::model
