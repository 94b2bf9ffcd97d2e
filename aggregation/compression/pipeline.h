// What makes an update smaller, as a recipe writes it: a list of words, each a stage that works on what the stage
// before it left over.
//
//   upload = ["top_k:0.01", "int4"]
//
//   top_k:F          of each tensor the share F of its values that are largest in size, one at least (Alistarh et al.,
//                    "The Convergence of Sparsified Gradient Methods", 1809.10505). Ties: the lower index.
//   random_mask:F    of each tensor the share F of its values, drawn from the seed that both sides know, so that only
//                    values travel (Konecny et al., 1610.05492)
//   blocks:F         whole blocks only (a layer, or a tensor of none), the most important ones that fit into the share
//   F of
//                    all values: importance is the norm of a block's change by its number of values (FedOBD; Chen et
//                    al., 2208.05174). First, if at all
//   bf16             values rounded to bfloat16, to the nearest even
//   int8 int4 int2   values on 255, 15 or 3 levels of a scale of their own for each 256 values, rounded up or down at
//                    random so that the mean is the value (Alistarh et al., QSGD, 1610.02132; int2 is TernGrad's form,
//                    1705.07878)
//   sign             the sign of each value; for a tensor one scale, the mean of their sizes (Karimireddy et al.,
//                    1901.09847)
//
//   nnadq:W          values on as many levels as their range is worth at the weight W, a bit to sixteen each (FedOBD's
//                    quantiser, adaptive_code.h)
//
//   error_feedback   what the stages leave out stays on the device and joins its next update (Seide et al., 2014).
//   Worth
//                    it with top_k, random_mask and sign; useless where the server computes factors anew each round
//
// Selections (the first two, and after blocks) may stand in any number and order; at most one of the others ends the
// list, without one values stay float32. F is a decimal number above 0 and up to 1, with at most six digits behind the
// point, and so a whole number of millionths: a stage keeps ceil(F * n) of n values, which is never a matter of
// rounding.
//
// A value; thread-safe as one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::compression {

// The numbers stand in encoded updates: never renumber.
enum class StageKind : uint8_t {
  kTopK = 1,
  kRandomMask = 2,
  kBlocks = 3,
  kBf16 = 16,
  kInt8 = 17,
  kInt4 = 18,
  kInt2 = 19,
  kSign = 20,
  kAdaptive = 21
};

struct Stage {
  StageKind kind = StageKind::kBf16;
  uint32_t millionths = 0;  // of a selection, or a weight: 1 .. 1 000 000; else 0
  friend bool operator==(const Stage&, const Stage&) = default;
};

// Of the values of one tensor.
inline bool IsSelection(StageKind kind) { return kind == StageKind::kTopK || kind == StageKind::kRandomMask; }
inline bool HasNumber(StageKind kind) {
  return IsSelection(kind) || kind == StageKind::kBlocks || kind == StageKind::kAdaptive;
}

class Pipeline {
 public:
  static constexpr size_t kMaxWords = 8;

  Pipeline() = default;  // no stage: updates travel as they are
  // Errors: kInvalidArgument with every mistake, each a sentence on a line of its own: a word that is no stage (the
  // nearest is named), a share that is missing, out of range or not wanted, a stage in the wrong place, error_feedback
  // alone or twice, too many words.
  static Result<Pipeline> Parse(std::span<const std::string> words);

  bool empty() const { return stages_.empty(); }
  std::span<const Stage> stages() const { return stages_; }
  // The words again, in one spelling: shares without zeros at their end.
  std::vector<std::string> Words() const;
  std::string ToString() const;  // "top_k:0.01, int4"

  bool error_feedback() const { return error_feedback_; }

  friend bool operator==(const Pipeline&, const Pipeline&) = default;

 private:
  std::vector<Stage> stages_;
  bool error_feedback_ = false;
};

// All words without their shares, for documentation and tests.
std::vector<std::string> WordNames();

// ceil(count * millionths / 1e6): what a selection keeps. count < 2^32.
inline uint64_t KeptCount(uint64_t count, uint32_t millionths) { return (count * millionths + 999'999) / 1'000'000; }

}  // namespace heddle::compression
