// Training data on a device: a text or JSONL file, tokenized once into one stream of ids and cut into sequences.
// LibTorch-free.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

// Immutable; thread-safe.
class TextDataset {
 public:
  // .txt: documents are separated by blank lines. .jsonl: one object a line with "text", or "prompt" and "completion".
  // Each document is encoded, with eos (or bos) between. Errors: kNotFound; kInvalidArgument with the line number; a
  // file with fewer than sequence_length + 1 tokens is refused.
  // Other endings are refused. At most 1 GiB.
  static Result<TextDataset> Read(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                  int64_t sequence_length);
  // The same from text in memory.
  enum class Format { kText, kJsonl };
  static Result<TextDataset> FromText(std::string_view text, Format format, const Tokenizer& tokenizer,
                                      int64_t sequence_length);

  // Non-overlapping windows of sequence_length + 1 tokens (the last token of one is the first of the next).
  int64_t num_sequences() const;
  int64_t sequence_length() const { return sequence_length_; }
  int64_t num_tokens() const { return static_cast<int64_t>(ids_.size()); }
  std::span<const int32_t> ids() const { return ids_; }  // the whole stream
  // sequence_length + 1 ids of window `index`.
  std::span<const int32_t> Sequence(int64_t index) const;

 private:
  std::vector<int32_t> ids_;
  int64_t sequence_length_ = 0;
};

// The order in which a task sees windows: epochs of permutations (Fisher-Yates) drawn from the seed; index `i` of the
// task's stream of examples. The same on every device.
class SampleOrder {
 public:
  SampleOrder(int64_t num_sequences, uint64_t seed);
  int64_t Next();

 private:
  void Shuffle();
  std::vector<int64_t> order_;
  uint64_t seed_;
  uint64_t epoch_ = 0;
  size_t position_ = 0;
};

}  // namespace heddle::model
