// A prompt by few coordinates: black-box prompt tuning (Sun et al., 2201.03514) searches z in R^d, not the prompt
//   P = P_0 + scale / sqrt(d) sum_j z_j A_j
// whose start P_0 and columns A_j need not be stored or sent: they are the same for everyone who knows d.
//   P_0: 0.02 times the normal direction (zo_optim/direction/direction.h) of parameter "prompt_embeddings", seed 0
//   A_j: the normal direction of seed j + 1 of that parameter; float32, added in the order of j
//
// Such a model has the tensors, F32, in place of prompt_embeddings:
//   prompt_coordinates [d]: z, of a search by CMA-ES its mean
//   prompt_variance [1]: sigma^2 of the search
//   heddle.prompt_projection [3]: virtual tokens, size of an embedding, scale; whole numbers to 2^24
// Free of LibTorch. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::peft {

inline constexpr std::string_view kPromptCoordinates = "prompt_coordinates";
inline constexpr std::string_view kPromptVariance = "prompt_variance";
inline constexpr std::string_view kPromptProjection = "heddle.prompt_projection";
inline constexpr int64_t kMostPromptCoordinates = 8192;

struct PromptProjection {
  int64_t tokens = 0, size = 0, dimensions = 0;
  double scale = 1;

  // Of a model; nothing when it has no kPromptProjection. Errors: kInvalidArgument when its tensors do not fit
  // together: shapes, more than 4 096 tokens, 2^24 elements, kMostPromptCoordinates or 2^34 products, values not
  // finite.
  static Result<PromptProjection> Of(const StateDict& model);
  static bool IsIn(const StateDict& model) { return model.contains(kPromptProjection); }

  // [tokens, size], row by row. coordinates: `dimensions` of them.
  std::vector<float> Prompt(std::span<const float> coordinates) const;
  // The tensors of a search that starts at zero with this sigma. The values are in range.
  StateDict InitialModel(double sigma) const;
};

// The same model with prompt_embeddings in place of its coordinates, or of its generator's weights
// (prompt_generator.h); a model that has neither as it is. Errors: those of PromptProjection::Of and
// PromptGenerator::Of; kInvalidArgument when it has both.
Result<StateDict> WithPrompt(StateDict model);

}  // namespace heddle::peft
