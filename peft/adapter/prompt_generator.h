// A prompt that a small network makes: its weights are trained, sent and averaged in place of the prompt (after
// Fed-BBPT, 2310.03123). The network is one for all virtual tokens; of token t, in double, sums in the order of their
// index:
//   h_t = tanh(W1 e_t + b1)
//   p_t = P_0t + scale / sqrt(width) W2 h_t       rounded to float32 once
//   e_t: elements t inputs to t inputs + inputs - 1 of the normal direction (zo_optim/direction/direction.h) of
//        parameter "prompt_codes", seed 0
//   P_0: that of prompt_projection.h
// Every operation is one that IEEE 754 rounds, tanh too, so the same weights make the same bits on every machine. Codes
// and P_0 are never stored or sent: everybody knows them.
//
// The network reads no text: the prompt is the same before every input, as that of PEFT's P_TUNING, whose encoder it is
// in small. (The generator of the paper's image models makes a prompt of each image; this one does not.) When training
// ends the prompt is all that is needed of it, which is what checkpoints hold.
//
// Such a model has the tensors, F32, in place of prompt_embeddings:
//   prompt_generator.input.weight [width, inputs], .input.bias [width]: W1, b1
//   prompt_generator.output.weight [size, width]: W2
//   heddle.prompt_generator [2]: virtual tokens, a whole number; scale
// Free of LibTorch. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::peft {

inline constexpr std::string_view kPromptGenerator = "heddle.prompt_generator";
inline constexpr std::string_view kGeneratorInput = "prompt_generator.input.weight";
inline constexpr std::string_view kGeneratorBias = "prompt_generator.input.bias";
inline constexpr std::string_view kGeneratorOutput = "prompt_generator.output.weight";
inline constexpr int64_t kMostGeneratorWidth = 1024;

struct PromptGenerator {
  int64_t tokens = 0, size = 0;   // of the prompt
  int64_t inputs = 0, width = 0;  // of the network
  double scale = 1;

  // Row by row, of the shapes above; finite.
  struct Weights {
    std::span<const float> input, bias, output;
  };

  // Of a model. Errors: kInvalidArgument when it has none, or its tensors do not fit together: shapes, more than 4 096
  // tokens, kMostGeneratorWidth inputs or units, 2^24 elements of the prompt or 2^34 products, values not finite.
  static Result<PromptGenerator> Of(const StateDict& model);
  static bool IsIn(const StateDict& model) { return model.contains(kPromptGenerator); }
  // Of a model for which Of is ok.
  static Weights WeightsOf(const StateDict& model);

  // [tokens, size], row by row.
  std::vector<float> Prompt(const Weights& at) const;
  // The derivative of Prompt at these weights as they move along `way`.
  std::vector<float> Along(const Weights& at, const Weights& way) const;
  // The tensors of a generator that makes P_0: W2 and b1 zero, W1 normal with deviation 1 / sqrt(inputs) by the seed,
  // so that the derivative by W2 is not zero. The values are in range.
  StateDict InitialModel(uint64_t seed) const;
};

}  // namespace heddle::peft
