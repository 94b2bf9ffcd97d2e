#include "model/data/batch.h"

#include <algorithm>
#include <string>

#include "common/assert.h"
#include "common/random.h"

namespace heddle::model {
namespace {

TokenBatch EmptyBatch(int64_t rows, int64_t length, int32_t pad_id) {
  HEDDLE_ASSERT(rows >= 1 && length >= 1, "a batch has rows and columns");
  TokenBatch batch;
  batch.rows = rows;
  batch.length = length;
  const auto n = static_cast<size_t>(rows * length);
  batch.ids.assign(n, pad_id);
  batch.mask.assign(n, 0);
  batch.token_types.assign(n, 0);
  batch.positions.assign(n, 0);
  batch.segments.assign(n, 0);
  batch.targets.assign(n, kNoTarget);
  batch.labels.assign(static_cast<size_t>(rows), 0);
  return batch;
}

// How much text may be encoded together: the time goes with the spans' number times the text's length.
constexpr size_t kMaxSpansTogether = 32;

// Where in `whole` the tokens begin that are not those of its beginning alone.
size_t CommonTokens(const std::vector<int32_t>& whole, const std::vector<int32_t>& beginning) {
  return static_cast<size_t>(std::mismatch(whole.begin(), whole.end(), beginning.begin(), beginning.end()).first -
                             whole.begin());
}

// Appends the tokens of these spans' text as a whole, each with the span that it belongs to.
void EncodeTogether(std::span<const TextSpan> spans, const Tokenizer& tokenizer, EncodedExample* encoded) {
  std::string text;
  for (const TextSpan& span : spans) text += span.text;
  const std::vector<int32_t> whole = tokenizer.Encode(text);
  encoded->ids.insert(encoded->ids.end(), whole.begin(), whole.end());
  size_t begin = 0, bytes = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    bytes += spans[i].text.size();
    const bool last = bytes == text.size();
    const size_t end =
        last ? whole.size() : std::max(begin, CommonTokens(whole, tokenizer.Encode({text.data(), bytes})));
    encoded->learned.insert(encoded->learned.end(), end - begin, spans[i].learned ? 1 : 0);
    begin = end;
  }
}

bool IsLearned(const std::vector<uint8_t>& learned, size_t i) { return learned.empty() || learned[i] != 0; }

}  // namespace

int64_t TokenBatch::NumTargets() const {
  return std::count_if(targets.begin(), targets.end(), [](int64_t target) { return target != kNoTarget; });
}

EncodedExample EncodeCausal(const TextExample& example, const Tokenizer& tokenizer, const CausalEncoding& options) {
  EncodedExample encoded;
  encoded.label = example.label.value_or(0);
  const auto push = [&encoded](int32_t id, bool learned) {
    encoded.ids.push_back(id);
    encoded.learned.push_back(learned ? 1 : 0);
  };
  const std::span<const TextSpan> spans(example.spans);
  if (options.add_bos && tokenizer.bos_id() >= 0) push(tokenizer.bos_id(), false);
  for (size_t i = 0; i < spans.size(); i += kMaxSpansTogether) {
    EncodeTogether(spans.subspan(i, std::min(kMaxSpansTogether, spans.size() - i)), tokenizer, &encoded);
  }
  if (options.add_eos && tokenizer.eos_id() >= 0) push(tokenizer.eos_id(), true);
  if (options.max_tokens > 0 && static_cast<int64_t>(encoded.ids.size()) > options.max_tokens) {
    encoded.ids.resize(static_cast<size_t>(options.max_tokens));
    encoded.learned.resize(encoded.ids.size());
  }
  return encoded;
}

TokenBatch PadRows(std::span<const EncodedExample> examples, Padding padding) {
  HEDDLE_ASSERT(!examples.empty(), "a batch has examples");
  size_t length = 1;
  for (const EncodedExample& example : examples) length = std::max(length, example.ids.size());
  if (padding.length > 0) length = static_cast<size_t>(padding.length);
  TokenBatch batch = EmptyBatch(static_cast<int64_t>(examples.size()), static_cast<int64_t>(length), padding.pad_id);
  for (size_t row = 0; row < examples.size(); ++row) {
    const EncodedExample& example = examples[row];
    batch.labels[row] = example.label;
    const size_t n = std::min(length, example.ids.size());
    for (size_t i = 0; i < n; ++i) {
      const size_t at = row * length + i;
      batch.ids[at] = example.ids[i];
      batch.mask[at] = 1;
      batch.segments[at] = 1;
      batch.positions[at] = static_cast<int64_t>(i);
      if (!example.token_types.empty()) batch.token_types[at] = example.token_types[i];
      if (i + 1 < n && IsLearned(example.learned, i + 1)) batch.targets[at] = example.ids[i + 1];
    }
  }
  return batch;
}

SequencePacker::SequencePacker(int64_t rows, int64_t length, int32_t pad_id)
    : rows_(rows), length_(length), pad_id_(pad_id) {
  Begin();
}

void SequencePacker::Begin() {
  batch_ = EmptyBatch(rows_, length_, pad_id_);
  filled_.assign(static_cast<size_t>(rows_), 0);
  segments_.assign(static_cast<size_t>(rows_), 0);
  used_rows_ = 0;
}

void SequencePacker::Add(const EncodedExample& document) {
  HEDDLE_ASSERT(!full(), "take the batch first");
  const size_t inputs = document.ids.empty() ? 0 : document.ids.size() - 1;
  for (size_t begin = 0; begin < inputs; begin += static_cast<size_t>(length_)) {
    const size_t end = std::min(begin + static_cast<size_t>(length_), inputs);
    Piece piece;
    bool any = false;
    for (size_t i = begin; i <= end; ++i) {
      piece.ids.push_back(document.ids[i]);
      piece.learned.push_back(IsLearned(document.learned, i) ? 1 : 0);
      any = any || (i > begin && piece.learned.back() != 0);
    }
    if (!any) continue;
    if (full() || !Place(piece)) waiting_.push_back(std::move(piece));
  }
}

bool SequencePacker::Place(const Piece& piece) {
  const auto columns = static_cast<int64_t>(piece.ids.size()) - 1;
  for (size_t row = 0; row < static_cast<size_t>(rows_); ++row) {
    if (filled_[row] + columns > length_) continue;
    if (filled_[row] == 0) ++used_rows_;
    ++segments_[row];
    for (int64_t i = 0; i < columns; ++i) {
      const auto at = static_cast<size_t>(static_cast<int64_t>(row) * length_ + filled_[row] + i);
      batch_.ids[at] = piece.ids[static_cast<size_t>(i)];
      batch_.mask[at] = 1;
      batch_.positions[at] = i;
      batch_.segments[at] = segments_[row];
      if (piece.learned[static_cast<size_t>(i) + 1] != 0) batch_.targets[at] = piece.ids[static_cast<size_t>(i) + 1];
    }
    filled_[row] += columns;
    return true;
  }
  return false;
}

TokenBatch SequencePacker::Take() {
  TokenBatch batch = std::move(batch_);
  Begin();
  while (!waiting_.empty() && Place(waiting_.front())) waiting_.pop_front();
  return batch;
}

void MaskTokens(const TokenMasking& masking, uint64_t seed, uint64_t batch_index, TokenBatch* batch) {
  HEDDLE_ASSERT(masking.vocab_size >= 1, "ids to choose from");
  PhiloxStream random(DeriveSeed(seed, "mask", ""), batch_index);
  const auto choose = [&](size_t at) {
    batch->targets[at] = batch->ids[at];
    const float kind = random.NextUniform();
    if (kind < 0.8F) {
      batch->ids[at] = masking.mask_id;
    } else if (kind < 0.9F) {
      batch->ids[at] = random.NextBelow(static_cast<uint32_t>(masking.vocab_size));
    }
  };
  std::fill(batch->targets.begin(), batch->targets.end(), kNoTarget);
  for (int64_t row = 0; row < batch->rows; ++row) {
    std::vector<size_t> ordinary;
    bool any = false;
    for (int64_t i = 0; i < batch->length; ++i) {
      const auto at = static_cast<size_t>(row * batch->length + i);
      const auto& special = masking.special_ids;
      if (batch->mask[at] == 0 || std::find(special.begin(), special.end(), batch->ids[at]) != special.end()) continue;
      ordinary.push_back(at);
    }
    for (const size_t at : ordinary) {
      if (random.NextUniform() >= static_cast<float>(masking.probability)) continue;
      choose(at);
      any = true;
    }
    if (!any && !ordinary.empty()) choose(ordinary[random.NextBelow(static_cast<uint32_t>(ordinary.size()))]);
  }
}

}  // namespace heddle::model
