// Any bytes as a tensor tree: refused, or a tree that is written back as it was, whose parts lie within its file.
#include "model/parts/tensor_tree.h"

#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/parts_model.h"

using heddle::fuzz::Require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tree = heddle::model::DecodeTensorTree(bytes);
  if (!tree.ok()) {
    Require(tree.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(heddle::model::EncodeTensorTree(*tree) == bytes, "a tree has one form");
  heddle::model::ModelSpec spec = heddle::fuzz::PartsModel();
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{}, {1}}) {
    spec.part.layers = layers;
    const auto files = heddle::model::FilesOfPart(spec, {{"model.safetensors", *tree}});
    if (!files.ok()) continue;
    Require(files->size() == spec.WeightSpec().size(), "a part has all of its tensors");
    uint64_t total = 0;
    for (const heddle::model::TensorFile& file : *files) {
      Require(file.begin <= tree->file_bytes && file.bytes <= tree->file_bytes - file.begin, "it lies in the file");
      total += file.bytes;
    }
    Require(total <= tree->file_bytes, "a part is not larger than its file");
    Require(!heddle::model::PartIndexJson(*files).empty(), "it has an index");
  }
  return 0;
}
