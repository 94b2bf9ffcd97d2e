#include "client/daemon/base_part.h"

#include <map>

#include "common/file.h"
#include "model/config/registry.h"
#include "protocol/validate.h"

namespace heddle::client {
namespace {

constexpr std::string_view kWeights = ".safetensors", kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// Files of a part's folder have names of their own.
bool IsOfWeights(const std::string& name) { return name.ends_with(kWeights) || name == kIndexFile; }

// By the names of the files they are of.
Result<std::map<std::string, model::TensorTree, std::less<>>> TreesOf(const v1::TaskPlan& plan,
                                                                      const ReadWholeBlob& read) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<CachedBlob> trees, BlobsOf(plan.tensor_trees()));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<CachedBlob> base, BlobsOf(plan.base_model()));
  std::map<std::string, model::TensorTree, std::less<>> out;
  for (const CachedBlob& file : base) {
    if (!file.name.ends_with(kWeights)) continue;
    const std::string name = file.name + std::string(model::kTensorTreeEnding);
    for (const CachedBlob& blob : trees) {
      if (blob.name != name) continue;
      HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, read(blob, model::kMaxTensorTreeBytes));
      auto tree = model::DecodeTensorTree(bytes);
      if (!tree.ok()) return tree.status().Annotate(name);
      if (tree->file != file.digest || tree->file_bytes != file.size_bytes) {
        return InvalidArgument(name + " is of another file than the plan's " + file.name);
      }
      out.emplace(file.name, *std::move(tree));
    }
    if (!out.contains(file.name)) return InvalidArgument("the plan has no tree of " + file.name);
  }
  return out;
}

}  // namespace

Result<std::vector<CachedBlob>> BlobsOf(const google::protobuf::RepeatedPtrField<v1::BlobRef>& refs) {
  std::vector<CachedBlob> blobs;
  for (const v1::BlobRef& ref : refs) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(ref));
    blobs.push_back({digest, ref.size_bytes(), ref.name()});
  }
  return blobs;
}

bool FetchesPart(const v1::TaskPlan& plan) { return !plan.train().layers().empty() && !plan.tensor_trees().empty(); }

Result<std::vector<CachedBlob>> WholeBlobs(const v1::TaskPlan& plan) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CachedBlob> blobs, BlobsOf(plan.base_model()));
  if (!FetchesPart(plan)) return blobs;
  std::erase_if(blobs, [](const CachedBlob& blob) { return IsOfWeights(blob.name); });
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<CachedBlob> trees, BlobsOf(plan.tensor_trees()));
  blobs.insert(blobs.end(), trees.begin(), trees.end());
  return blobs;
}

Result<BasePart> PartOf(const v1::TaskPlan& plan, BlobCache* cache) {
  return PartOf(plan, [cache](const CachedBlob& blob, size_t most) -> Result<std::string> {
    const auto path = cache->Find(blob);
    if (!path) return NotFound("the cache has lost " + blob.name);
    return ReadFile(*path, most);
  });
}

Result<BasePart> PartOf(const v1::TaskPlan& plan, const ReadWholeBlob& read) {
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<CachedBlob> base, BlobsOf(plan.base_model()));
  HEDDLE_ASSIGN_OR_RETURN(const auto trees, TreesOf(plan, read));
  for (const CachedBlob& blob : base) {
    if (blob.name != "config.json") continue;
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, read(blob, kMaxConfigBytes));
    HEDDLE_ASSIGN_OR_RETURN(model::ModelSpec spec, model::ParseModelConfig(text));
    spec.part.layers.assign(plan.train().layers().begin(), plan.train().layers().end());
    HEDDLE_RETURN_IF_ERROR(spec.Check());
    BasePart part;
    HEDDLE_ASSIGN_OR_RETURN(part.tensors, model::FilesOfPart(spec, trees));
    part.index_json = model::PartIndexJson(part.tensors);
    part.index = {Sha256(part.index_json), part.index_json.size(), std::string(kIndexFile)};
    return part;
  }
  return InvalidArgument("the plan's base model has no config.json");
}

Result<std::vector<CachedBlob>> FolderBlobs(const v1::TaskPlan& plan, BlobCache* cache) {
  if (!FetchesPart(plan)) return BlobsOf(plan.base_model());
  HEDDLE_ASSIGN_OR_RETURN(const BasePart part, PartOf(plan, cache));
  return FolderBlobs(plan, part);
}

Result<std::vector<CachedBlob>> FolderBlobs(const v1::TaskPlan& plan, const BasePart& part) {
  HEDDLE_ASSIGN_OR_RETURN(std::vector<CachedBlob> blobs, BlobsOf(plan.base_model()));
  std::erase_if(blobs, [](const CachedBlob& blob) { return IsOfWeights(blob.name); });
  for (const model::TensorFile& tensor : part.tensors) blobs.push_back({tensor.digest, tensor.size(), tensor.name});
  blobs.push_back(part.index);
  return blobs;
}

}  // namespace heddle::client
