#include "model/parts/part_folder.h"

#include <map>
#include <set>

#include "common/digest.h"
#include "common/file.h"
#include "model/config/registry.h"
#include "model/parts/masked_model.h"
#include "model/parts/tensor_tree.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;

constexpr char kIndexFile[] = "model.safetensors.index.json";
using Trees = std::map<std::string, TensorTree, std::less<>>;

bool IsWeights(const fs::path& path) { return path.extension() == ".safetensors"; }
bool IsTree(const fs::path& path) { return path.extension() == kTensorTreeEnding; }

Result<std::set<fs::path>> FilesIn(const fs::path& folder) {
  std::set<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_regular_file(error)) files.insert(entry.path());
  }
  if (error) return NotFound("cannot list the model's folder " + folder.string() + ": " + error.message());
  return files;
}

Result<TensorTree> TreeOfFile(const fs::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(path));
  HEDDLE_ASSIGN_OR_RETURN(const auto mapped, MappedFile::Open(path));
  auto tree = MakeTensorTree(mapped->bytes(), digest);
  mapped->DropPages();
  if (!tree.ok()) return tree.status().Annotate(path.string());
  return tree;
}

// The tensors of a part are files whose digests are leaves.
Status CheckPart(const std::set<fs::path>& files, const Trees& trees) {
  std::set<Sha256Digest> leaves;
  for (const auto& [name, tree] : trees) {
    for (const auto& [tensor, entry] : tree.tensors) leaves.insert(entry.leaf);
  }
  for (const fs::path& path : files) {
    if (!IsWeights(path)) continue;
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, Sha256File(path));
    if (!leaves.contains(digest)) {
      return DataLoss(path.string() + " is no tensor of the model that the folder is a part of");
    }
  }
  return OkStatus();
}

}  // namespace

Status WriteDevicePart(const fs::path& folder, const Cut& cut, const fs::path& out) {
  HEDDLE_RETURN_IF_ERROR(CheckNewFolder(out));
  HEDDLE_ASSIGN_OR_RETURN(ModelSpec spec, ReadModelConfig(folder));
  HEDDLE_ASSIGN_OR_RETURN(spec.part, DevicePart(spec, cut));
  HEDDLE_RETURN_IF_ERROR(spec.Check());
  HEDDLE_ASSIGN_OR_RETURN(const std::set<fs::path> files, FilesIn(folder));
  Trees trees;
  for (const fs::path& path : files) {
    if (!IsWeights(path)) continue;
    HEDDLE_ASSIGN_OR_RETURN(TensorTree tree, TreeOfFile(path));
    trees.emplace(path.filename().string(), std::move(tree));
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<TensorFile> tensors, FilesOfPart(spec, trees));
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(out));
  for (const fs::path& path : files) {
    if (IsWeights(path) || IsTree(path) || path.filename() == kIndexFile) continue;
    std::error_code error;
    fs::copy_file(path, out / path.filename(), error);
    if (error) return ErrnoStatus(error.value(), "cannot write " + (out / path.filename()).string());
  }
  for (const auto& [name, tree] : trees) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / (name + std::string(kTensorTreeEnding)), EncodeTensorTree(tree)));
  }
  for (const TensorFile& tensor : tensors) {
    HEDDLE_ASSIGN_OR_RETURN(const auto mapped, MappedFile::Open(folder / tensor.source));
    const auto bytes = mapped->bytes().subspan(tensor.begin, tensor.bytes);
    std::string file = tensor.head;
    file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / tensor.name, file));
  }
  return WriteFileAtomically(out / kIndexFile, PartIndexJson(tensors));
}

Result<std::string> BaseModelDigest(const fs::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(const std::set<fs::path> files, FilesIn(folder));
  Trees trees;
  for (const fs::path& path : files) {
    if (!IsTree(path)) continue;
    HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxTensorTreeBytes));
    auto tree = DecodeTensorTree(bytes);
    if (!tree.ok()) return tree.status().Annotate(path.string());
    trees.emplace(path.stem().string(), *std::move(tree));
  }
  if (!trees.empty()) {
    HEDDLE_RETURN_IF_ERROR(CheckPart(files, trees));
  } else {
    for (const fs::path& path : files) {
      if (!IsWeights(path)) continue;
      HEDDLE_ASSIGN_OR_RETURN(TensorTree tree, TreeOfFile(path));
      trees.emplace(path.filename().string(), std::move(tree));
    }
  }
  if (trees.empty()) return NotFound("the model's folder " + folder.string() + " has no weights");
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest config, Sha256File(folder / "config.json"));
  std::string all = "config.json " + config.ToHex() + "\n";
  for (const auto& [name, tree] : trees) all += name + " " + tree.Root().ToHex() + "\n";
  return Sha256(all).ToHex();
}

}  // namespace heddle::model
