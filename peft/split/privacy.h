// What a device does to what it sends, so that less can be read from it: clipping and noise of activations, randomised
// labels; and a figure of how much the activations still say about the inputs.
//
// Random numbers are Philox streams keyed by the device's secret and by what they are for, so that a step that is done
// again sends the same bytes; a second draw for the same activations would lessen the noise. A server that knew the
// secret could take the noise off; Philox is no cipher, and against somebody who can break it this protects nothing.
//
// Pure functions. Include only from translation units of targets with TORCH. LibTorch's exceptions pass through.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "model/transformer/input.h"

namespace heddle::peft {

// x [rows, length, width], each sample times min(1, clip_norm / its L2 norm), differentiably. A sample is a row, or, of
// packed rows, the tokens of one number in `segments` [rows, length]. clip_norm > 0.
torch::Tensor ClipSamples(const torch::Tensor& x, const torch::Tensor& segments, double clip_norm);

// Independent N(0, 1) numbers, float32, without gradient: those of `stream` and `key` (common/normals.h).
torch::Tensor StandardNormals(at::IntArrayRef sizes, uint64_t key, uint64_t stream);

// x, float, and N(0, deviation^2) noise on each of its numbers. The noise follows from the secret, the place in the
// session and x itself: the same x sent again is the same bytes, and a server that has a step done again with other
// parameters does not get two values with one noise.
torch::Tensor AddCutNoise(const torch::Tensor& x, double deviation, std::string_view secret, uint64_t session,
                          uint32_t step, uint32_t micro);

// Randomised response (Warner, 1965): each target stays what it is with probability e^epsilon / (e^epsilon + labels -
// 1) and is else any of the others, all alike; -100 stays. What an example gets follows from the secret and its own
// contents, so that it is the same each time the example comes: epsilon is spent once and not in every epoch. `targets`
// int64 [rows] or [rows, length], `labels` >= 2, epsilon > 0.
torch::Tensor RandomiseTargets(const torch::Tensor& targets, int64_t labels, double epsilon, std::string_view secret,
                               const model::ModelInput& input);

// The distance correlation (Szekely, Rizzo, Bakirov, 2007; as a measure of what activations leak: Vepakomma et al.,
// 2008.09161) of paired rows a [n, p] and b [n, q], from 0 (independent) to 1: the root of the estimate without bias
// (Szekely and Rizzo, 2014), since the plain one is near 1 for independent rows of many columns. In double. 0 where one
// of them does not vary, the estimate is negative, or n < 4. Takes 8 n^2 bytes, several times.
double DistanceCorrelation(const torch::Tensor& a, const torch::Tensor& b);

}  // namespace heddle::peft
