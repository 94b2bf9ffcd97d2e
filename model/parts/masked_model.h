// A pretrained encoder with a head for masked words, so that devices can pre-train it further (Devlin et al., "BERT",
// 1810.04805; FedBERT, FedBFPT): of a folder that has lost that head, as sentence encoders and classifiers have, a
// BertForMaskedLM.
//
// Thread-safe for different folders. Free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::model {

// Writes `out`: the model of `folder` as ConfigWithMaskedHead (model/config/new_head.h) says, in one weight file under
// the names of BertForMaskedLM, each tensor in the type that it has, and the other files. A pooler and a classifier are
// left out. What of the head `folder` lacks is new, in float32, and its names are returned: the dense layer uniform
// with BERT's deviation of 0.02, drawn from `seed`, norms 1 and biases 0; words are told apart by the word embeddings.
// config.json comes last: without it the folder is no model. Errors: those of ConfigWithMaskedHead; kAlreadyExists when
// `out` holds something; kInvalidArgument for weights that lack what a BERT has; those of the readers and the disk.
Result<std::vector<std::string>> WriteMaskedModel(const std::filesystem::path& folder, uint64_t seed,
                                                  const std::filesystem::path& out);

// Ok where `out` may become a model's folder: there is nothing there, or an empty folder. Errors: kAlreadyExists.
Status CheckNewFolder(const std::filesystem::path& out);

// Copies the files of a model's folder but config.json, weights in any form, and those that are `left_out`. Errors: of
// the disk.
Status CopyAllButTheModel(const std::filesystem::path& from, const std::filesystem::path& to,
                          const std::set<std::string, std::less<>>& left_out = {});

}  // namespace heddle::model
