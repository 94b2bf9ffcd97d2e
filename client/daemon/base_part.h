// The base model's folder as a plan asks for it: its files whole, or, when the task computes with some layers and the
// plan has trees of hashes, the tensors of that part alone (model/parts/tensor_tree.h).
//
// Pure functions over what the cache holds; of the daemon's thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client/daemon/blob_cache.h"
#include "common/status.h"
#include "model/parts/tensor_tree.h"
#include "protocol/v1/task.pb.h"

namespace heddle::client {

// A list of a plan's as blobs of the cache. Errors: kInvalidArgument.
Result<std::vector<CachedBlob>> BlobsOf(const google::protobuf::RepeatedPtrField<v1::BlobRef>& refs);

// Whether only a part of the base model is fetched.
bool FetchesPart(const v1::TaskPlan& plan);
// What is fetched whole of the base model: all its files, or those that are no weights, and the trees.
Result<std::vector<CachedBlob>> WholeBlobs(const v1::TaskPlan& plan);

struct BasePart {
  std::vector<model::TensorFile> tensors;
  std::string index_json;  // of a folder with them
  CachedBlob index;
};
// Reads one of WholeBlobs, of at most so many bytes. Errors: kNotFound when it is not at hand; those of reading.
using ReadWholeBlob = std::function<Result<std::string>(const CachedBlob& blob, size_t most)>;
// Once WholeBlobs can be read. Errors: kInvalidArgument when the trees are not of the plan's files, or the model lacks
// a layer that the plan asks for; those of `read`.
Result<BasePart> PartOf(const v1::TaskPlan& plan, const ReadWholeBlob& read);
// Read from the cache. Errors: kNotFound when it has lost a file, beside the above.
Result<BasePart> PartOf(const v1::TaskPlan& plan, BlobCache* cache);

// The files of the folder that the worker reads: of a part, those of before without the trees, and its own.
Result<std::vector<CachedBlob>> FolderBlobs(const v1::TaskPlan& plan, BlobCache* cache);
// The same of a part that is known. Errors: kInvalidArgument.
Result<std::vector<CachedBlob>> FolderBlobs(const v1::TaskPlan& plan, const BasePart& part);

}  // namespace heddle::client
