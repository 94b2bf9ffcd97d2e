// Which blocks of an update travel (FedOBD; Chen et al., 2208.05174). Internal to compression and its tests.
//
// A block is the tensors of one layer (the first component of their names that is a number), or a tensor of none.
// Blocks are in the order of their first tensors. The importance of one is the L2 norm of its change divided by its
// number of values; the most important comes first, of equal ones the first in order, and each that still fits into the
// budget of values is kept. The budget is never gone beyond, so nothing may be kept. What is kept is written as a
// bitmap, block b as bit b mod 8 of byte b / 8, bits behind the last block zero. Thread-safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/state_dict.h"
#include "common/status.h"

namespace heddle::compression {

struct Block {
  std::vector<std::string> names;
  uint64_t values = 0;
};
std::vector<Block> BlocksOf(const StateDictSpec& spec);

// floor(values * millionths / 1e6). values < 2^44.
uint64_t BlockBudget(uint64_t values, uint32_t millionths);

using KeptNames = std::set<std::string, std::less<>>;

// Chooses, appends the bitmap, and gives the names of the kept blocks' tensors. `residual`: what is added to the
// update, of the same tensors; null: nothing. Values that are not finite are for the caller to find.
KeptNames AppendKeptBlocks(const std::vector<Block>& blocks, const StateDict& update, const StateDict* residual,
                           uint32_t millionths, std::string* out);
// Reads the bitmap from the front of `in`, which is shortened by it. Errors: kInvalidArgument when it is cut off, has
// bits behind the last block, or keeps more than the budget.
Result<KeptNames> ReadKeptBlocks(const std::vector<Block>& blocks, uint32_t millionths, std::span<const std::byte>* in);

uint64_t KeptBlocksBytes(size_t blocks);

}  // namespace heddle::compression
