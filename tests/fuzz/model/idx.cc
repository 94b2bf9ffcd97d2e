// A byte that says how many dimensions, then any bytes as an IDX file, plain or compressed: refused, or each item of it
// can be read.
#include "model/data/idx.h"

#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const heddle::fuzz::Scratch scratch;
  heddle::fuzz::Input input(data, size);
  const size_t dimensions = 1 + input.TakeByte() % 4;
  const auto file = heddle::model::IdxFile::Open(scratch.Write("data", input.rest()), dimensions);
  if (!file.ok()) {
    Require(file.status().code() == heddle::Code::kInvalidArgument, "a bad file is an invalid argument",
            file.status().ToString());
    return 0;
  }
  Require((*file)->shape().size() == dimensions, "it has the dimensions that were asked for");
  if ((*file)->item_bytes() > size_t{1} << 20) return 0;
  std::vector<uint8_t> item((*file)->item_bytes());
  for (int64_t i = 0; i < std::min<int64_t>((*file)->size(), 64); ++i) {
    Require((*file)->ReadItem(i, item).ok(), "an item can be read");
  }
  if ((*file)->size() > 0) Require((*file)->ReadItem((*file)->size() - 1, item).ok(), "also the last one");
  return 0;
}
