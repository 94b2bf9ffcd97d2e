// Encoded examples as rectangular batches: padded rows, packed rows, and masked tokens. Plain vectors in row-major
// order, so that this room stays free of LibTorch. Right padding.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "model/data/text_records.h"
#include "model/tokenizer/tokenizer.h"

namespace heddle::model {

constexpr int64_t kNoTarget = -100;  // a position that does not count in a loss over tokens

struct EncodedExample {
  std::vector<int32_t> ids;
  std::vector<int32_t> token_types;  // as long as ids, or empty: all 0
  std::vector<uint8_t> learned;      // as long as ids, or empty: all 1. Whether predicting this token counts in a loss
  double label = 0;                  // a class's number, or a number
};

// rows * length values each, but labels: rows.
struct TokenBatch {
  int64_t rows = 0, length = 0;
  std::vector<int64_t> ids;
  std::vector<int64_t> mask;         // 1: a token, 0: padding
  std::vector<int64_t> token_types;  // 0 and 1
  std::vector<int64_t> positions;    // from 0, anew in each segment
  std::vector<int64_t> segments;     // from 1 in each row; 0: padding. Tokens see tokens of their own segment only
  std::vector<int64_t> targets;      // of a loss over tokens: an id, or kNoTarget
  std::vector<double> labels;

  int64_t NumTargets() const;  // that count
};

struct CausalEncoding {
  int64_t max_tokens = 0;  // the rest is cut off; 0: nothing is
  bool add_bos = false;    // where the tokenizer has one
  bool add_eos = true;
};
// A text for next-token prediction: the spans encoded as the one text that they are (by themselves, many a tokenizer
// would put a space before each), the end token learned, the beginning's not. A token belongs to the first span with
// which the text encoded up to that span's end has it in its place: one that reaches over a border belongs to the later
// span. Of long conversations 32 spans at a time are one text. sentence2 is not looked at. May be empty, or without a
// learned token.
EncodedExample EncodeCausal(const TextExample& example, const Tokenizer& tokenizer, const CausalEncoding& options);

struct Padding {
  int64_t length = 0;  // of every row; 0: of the longest one
  int32_t pad_id = 0;
};
// A row for each example, cut at `length`. Targets are those of next-token prediction: at each token the next one,
// where it is learned. At least one example; at least one column.
TokenBatch PadRows(std::span<const EncodedExample> examples, Padding padding);

// Packs documents for next-token prediction: several in a row, each a segment of its own whose positions begin at 0 and
// which sees only itself. Every token of a document but its first is a target once (if learned) and every one but the
// last an input once: a document of n tokens takes n - 1 columns, and no target crosses a border. One that is longer
// than a row is cut into pieces that share one token, like the windows of TextDataset.
//
//   packer.Add(document); while (packer.full()) Use(packer.Take()); …; if (!packer.empty()) Use(packer.Take());
//
// A piece goes into the first row with room; when there is none, the batch is full and the piece begins the next one.
// So the result depends on the order of documents only. Memory: one batch and one document. Not thread-safe.
class SequencePacker {
 public:
  SequencePacker(int64_t rows, int64_t length, int32_t pad_id = 0);  // both at least 1
  // Not while full(). A document of fewer than two tokens, or without a learned one, adds nothing.
  void Add(const EncodedExample& document);
  bool full() const { return !waiting_.empty(); }
  bool empty() const { return used_rows_ == 0; }
  // The batch so far, of `rows` rows, the last ones perhaps all padding; and begins the next.
  TokenBatch Take();

 private:
  struct Piece {
    std::vector<int32_t> ids;  // one more than columns
    std::vector<uint8_t> learned;
  };
  void Begin();
  bool Place(const Piece& piece);

  int64_t rows_, length_;
  int32_t pad_id_;
  TokenBatch batch_;
  std::vector<int64_t> filled_, segments_;  // of each row
  int64_t used_rows_ = 0;
  std::deque<Piece> waiting_;
};

struct TokenMasking {
  double probability = 0.15;
  int32_t mask_id = 0;
  int64_t vocab_size = 0;
  std::vector<int32_t> special_ids;  // never chosen
};
// Masked language modelling (Devlin et al., "BERT", 2019): each token that is not special or padding is chosen with
// `probability`; targets become the chosen tokens' ids, all others kNoTarget; of the chosen ones 80 % become the
// mask, 10 % a random id, 10 % stay. A row whose draw chose none gets one by the same stream, so that every row has a
// loss, unless all of its tokens are special. Depends on (seed, batch_index) and the batch only.
void MaskTokens(const TokenMasking& masking, uint64_t seed, uint64_t batch_index, TokenBatch* batch);

}  // namespace heddle::model
