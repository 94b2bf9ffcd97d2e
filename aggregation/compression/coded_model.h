// A model as devices get it where the recipe asks for adaptive levels ([compression] download = "nnadq:W"): FedOBD
// (Chen et al., 2208.05174) writes what it broadcasts as it writes updates. Like a rounded model
// (aggregation/rounded_model.h) it is a view: the committed model stays float32, and an update is the difference from
// what the view says.
//
// An F32 tensor `key` becomes the U8 tensor `key.nnadq`: the weight in millionths (u32), the number of dimensions
// (u32), each dimension (i64), and its values as adaptive_code.h writes them; all little-endian. A tensor of no values,
// of equal ones or of one that is not finite stays as it is, as does one of another type. So no coded tensor has more
// than four values a byte, and what a file decodes to is at most sixteen times as long.
//
// Pure; thread-safe. May throw std::bad_alloc.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::compression {

inline constexpr std::string_view kCodedEnding = ".nnadq";

// `weight` in millionths, above 0; no name may have the ending. Tensors that stay share their bytes with `model`.
StateDict CodedModel(const StateDict& model, uint32_t weight);

// The way back: F32 tensors, all finite; what is not coded as it is. A model without coded tensors is itself. Errors:
// kInvalidArgument, with the tensor's name, for what CodedModel cannot have written.
Result<StateDict> DecodedModel(const StateDict& given);

}  // namespace heddle::compression
