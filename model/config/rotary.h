// Frequencies of rotary positions, in float64, with the scalings by which a model reads more tokens than it was trained
// on. Free of LibTorch. Thread-safe (no state).
#pragma once

#include <vector>

#include "model/config/config_reader.h"
#include "model/config/model_spec.h"

namespace heddle::model {

struct RotaryTable {
  std::vector<double> frequencies;  // radians a position, one for each pair of dimensions: RotaryDims() / 2
  double magnitude = 1.0;           // what cosine and sine are multiplied by (yarn)
};

// Su et al., 2104.09864: theta^(-2i/dims). linear: positions divided by the factor (Chen et al., 2306.15595). dynamic:
// for sequences longer than the trained length theta grows with `length`, so that the slowest pair turns as far as it
// did. llama3: long waves divided, short ones kept, between them a ramp (Llama 3.1). yarn: Peng et al., 2309.00071.
RotaryTable RotaryFrequencies(const ModelSpec& spec, int64_t length);

// Reads rope_theta, rope_scaling or rope_parameters, and partial_rotary_factor. Scalings that are not known fail with
// kUnimplemented.
void ReadRotary(ConfigReader& reader, ModelSpec* spec);

}  // namespace heddle::model
