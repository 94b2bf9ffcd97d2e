// A model's folder with the tensors of one part alone, as a device of split learning has it, and a digest that says of
// which whole model a folder is, or is a part.
//
// Such a folder has config.json, the tokenizer, each tensor of the part as a file of its own with an index that readers
// of sharded models know, and the tree (tensor_tree.h) of each of the model's weight files, by which its tensors can be
// held against the whole.
//
// Thread-safe for different folders. Free of LibTorch.
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"
#include "model/config/cut.h"

namespace heddle::model {

// What a device has of the model in `folder` when it is cut there, as the new folder `out`. Errors: those of reading
// the model; kAlreadyExists when `out` holds something; those of DevicePart and of the disk.
Status WriteDevicePart(const std::filesystem::path& folder, const Cut& cut, const std::filesystem::path& out);

// The same 64 hex digits for a model's folder and for a part of it: of config.json and the roots of the weight files'
// trees. Reads every byte of what is there; tensors of a part are held against the trees. Errors: kNotFound when
// config.json or all weights are missing; kDataLoss for a tensor that is not that of the tree; those of the readers.
Result<std::string> BaseModelDigest(const std::filesystem::path& folder);

}  // namespace heddle::model
