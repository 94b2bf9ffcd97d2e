// Training data on a device: a text or JSONL file, tokenized once into one stream of ids and cut into sequences.
// LibTorch-free.
//
// Memory while a file is read: one document, its ids, and TextLimits::tokens_in_memory ids (by default 16 MiB); what is
// more goes to a temporary file of 4 bytes a token, which is mapped afterwards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/data/token_store.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

struct TextLimits {
  size_t document_bytes = size_t{64} << 20;  // of a document of a file, or of its line of JSON
  int64_t tokens = int64_t{1} << 31;         // of all documents together
  size_t tokens_in_memory = size_t{1} << 22;
};

// What becomes of the tokens at a text's end that do not fill a window: left out, as training wants rows of one length;
// or a window of their own, so that an evaluation counts each of them.
enum class LastWindow { kLeftOut, kShort };

// Immutable; thread-safe; copies share the ids.
class TextDataset {
 public:
  // .txt: documents are separated by blank lines. .jsonl: one object a line with "text" (else "sentence", "sentence1"),
  // or "prompt" and "completion". Each document is encoded, with eos (or bos) between. Errors: kNotFound,
  // kPermissionDenied; kInvalidArgument: another ending, no regular file, bytes that are not UTF-8, lines that are not
  // such objects, a document above `limits` (all with the line number), a file with fewer than sequence_length + 1
  // tokens (with a short last window: than 2) or more than `limits` allow; those of TokenStoreWriter; kDataLoss when
  // the disk fails.
  static Result<TextDataset> Read(const std::filesystem::path& path, const Tokenizer& tokenizer,
                                  int64_t sequence_length, const TextLimits& limits = {},
                                  LastWindow last = LastWindow::kLeftOut);
  // The same from text in memory, with documents of any length.
  enum class Format { kText, kJsonl };
  static Result<TextDataset> FromText(std::string_view text, Format format, const Tokenizer& tokenizer,
                                      int64_t sequence_length, LastWindow last = LastWindow::kLeftOut);

  // Windows of sequence_length + 1 tokens (the last token of one is the first of the next). With a short last one every
  // token but the text's first is predicted in just one window.
  int64_t num_sequences() const;
  int64_t sequence_length() const { return sequence_length_; }
  int64_t num_tokens() const { return static_cast<int64_t>(ids().size()); }
  std::span<const int32_t> ids() const { return store_->ids(); }  // the whole stream
  // sequence_length + 1 ids of window `index`; of a short last one fewer, at least 2.
  std::span<const int32_t> Sequence(int64_t index) const;

 private:
  TextDataset(std::shared_ptr<const TokenStore> store, int64_t sequence_length, LastWindow last)
      : store_(std::move(store)), sequence_length_(sequence_length), last_(last) {}
  std::shared_ptr<const TokenStore> store_;
  int64_t sequence_length_ = 0;
  LastWindow last_ = LastWindow::kLeftOut;
};

// The order in which a task sees windows: epochs of permutations (Fisher-Yates) drawn from the seed; index `i` of the
// task's stream of examples. The same on every device. num_sequences: from 1 to 2^32 - 1.
class SampleOrder {
 public:
  SampleOrder(int64_t num_sequences, uint64_t seed);
  int64_t Next();

 private:
  void Shuffle();
  std::vector<uint32_t> order_;
  uint64_t seed_;
  uint64_t epoch_ = 0;
  size_t position_ = 0;
};

}  // namespace heddle::model
