#include "model/tokenizer/encoding.h"

#include <algorithm>
#include <string>
#include <utility>

namespace heddle::model {
namespace {

void CutTo(int64_t size, Side side, std::vector<int32_t>* ids) {
  const auto surplus = static_cast<int64_t>(ids->size()) - size;
  if (surplus <= 0) return;
  if (side == Side::kLeft) ids->erase(ids->begin(), ids->begin() + surplus);
  ids->resize(static_cast<size_t>(size));
}

// The sizes of a pair under kLongestFirst, as Hugging Face's tokenizers have them.
std::pair<int64_t, int64_t> SizesOfPair(int64_t first, int64_t second, int64_t most) {
  const bool swapped = first > second;
  int64_t shorter = std::min(first, second), longer = std::max(first, second);
  longer = std::min(longer, shorter > most ? shorter : std::max(shorter, most - shorter));
  if (shorter + longer > most) {
    shorter = most / 2;
    longer = shorter + most % 2;
  }
  return swapped ? std::pair(longer, shorter) : std::pair(shorter, longer);
}

}  // namespace

void Encoding::Append(int32_t id, int32_t type_id, bool special) {
  ids.push_back(id);
  type_ids.push_back(type_id);
  attention_mask.push_back(1);
  special_mask.push_back(special ? 1 : 0);
}

Status Truncate(int64_t max_tokens, const EncodeOptions& options, std::vector<int32_t>* first,
                std::vector<int32_t>* second) {
  if (max_tokens < 0) {
    return InvalidArgument("a length of " + std::to_string(options.max_length) + " has no room for the " +
                           std::to_string(options.max_length - max_tokens) +
                           " special tokens: choose a larger one (sequence_length, --length)");
  }
  const auto size = static_cast<int64_t>(first->size());
  const int64_t other = second == nullptr ? 0 : static_cast<int64_t>(second->size());
  const int64_t surplus = size + other - max_tokens;
  if (surplus <= 0) return OkStatus();
  if (options.truncation == Truncation::kLongestFirst) {
    if (second == nullptr) {
      CutTo(max_tokens, options.truncation_side, first);
      return OkStatus();
    }
    const auto [a, b] = SizesOfPair(size, other, max_tokens);
    CutTo(a, options.truncation_side, first);
    CutTo(b, options.truncation_side, second);
    return OkStatus();
  }
  std::vector<int32_t>* cut = options.truncation == Truncation::kOnlyFirst ? first : second;
  if (cut == nullptr) return InvalidArgument("only the second text may be truncated, but there is none");
  if (static_cast<int64_t>(cut->size()) <= surplus) {
    return InvalidArgument("the text that may be truncated has " + std::to_string(cut->size()) + " tokens, but " +
                           std::to_string(surplus) + " must go to reach max_length " +
                           std::to_string(options.max_length));
  }
  CutTo(static_cast<int64_t>(cut->size()) - surplus, options.truncation_side, cut);
  return OkStatus();
}

void Pad(const PaddingOptions& options, std::span<Encoding> batch) {
  auto length = static_cast<size_t>(std::max<int64_t>(options.length, 0));
  for (const Encoding& one : batch) length = std::max(length, one.size());
  const auto multiple = static_cast<size_t>(std::max<int64_t>(options.multiple_of, 1));
  length = (length + multiple - 1) / multiple * multiple;
  for (Encoding& one : batch) {
    const size_t missing = length - one.size();
    const auto pad = [&](auto& values, auto with) {
      values.insert(options.side == Side::kRight ? values.end() : values.begin(), missing, with);
    };
    pad(one.ids, options.pad_id);
    pad(one.type_ids, options.pad_type_id);
    pad(one.attention_mask, uint8_t{0});
    pad(one.special_mask, uint8_t{1});
  }
}

}  // namespace heddle::model
