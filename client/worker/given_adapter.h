// What a task starts from: the adapter that the coordinator has sent, in whichever form it travels.
//
// Thread-safety: a pure function of its files. Free of LibTorch.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "peft/adapter/adapter.h"

namespace heddle::client {

// Of a folder in PEFT's layout: all tensors float32, also where they were rounded to bfloat16 or coded
// (aggregation/compression/coded_model.h). Errors: those of peft::ReadAdapter; kInvalidArgument for a coded tensor that
// is none.
Result<peft::Adapter> ReadGivenAdapter(const std::filesystem::path& folder);

}  // namespace heddle::client
