// The hash tree of a safetensors file, so that a device can fetch some of its tensors and know that they are the ones.
//
// A leaf is the SHA-256 of the tensor alone as a safetensors file, in the canonical form of SafetensorsHead: so it
// covers name, dtype, shape and bytes, and a verified leaf is a file that any reader takes. Inner nodes and the root
// begin with bytes that no such file begins with. The root binds them to the whole file's digest. As bytes the tree is
// the format of docs/formats.md; whoever names those bytes by their SHA-256 (the coordinator, in a plan) vouches for
// every tensor.
//
// Plain values, pure functions; thread-safe. Free of LibTorch.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/state_dict.h"
#include "common/status.h"
#include "model/config/model_spec.h"

namespace heddle::model {

inline constexpr std::string_view kTensorTreeEnding = ".tree";  // behind the file's name
inline constexpr size_t kMaxTensorTreeBytes = size_t{16} << 20;
inline constexpr size_t kMaxTreeTensors = 65'536;
inline constexpr size_t kMaxTreeNameBytes = 1024;
inline constexpr size_t kMaxTreeDimensions = 8;

struct TreeTensor {
  TensorSpec spec;
  uint64_t begin = 0;  // of its bytes in the file
  Sha256Digest leaf;
  friend bool operator==(const TreeTensor&, const TreeTensor&) = default;
};

struct TensorTree {
  Sha256Digest file;
  uint64_t file_bytes = 0;
  std::map<std::string, TreeTensor, std::less<>> tensors;
  friend bool operator==(const TensorTree&, const TensorTree&) = default;

  Sha256Digest Root() const;
};

// Of a file's bytes, which have this digest (not checked: who stored them knows). Hashes every tensor once. Errors:
// those of ParseSafetensors; kInvalidArgument when the file goes beyond the bounds above.
Result<TensorTree> MakeTensorTree(std::span<const std::byte> file, const Sha256Digest& digest);

std::string EncodeTensorTree(const TensorTree& tree);
// Errors: kInvalidArgument for anything that EncodeTensorTree does not write: other lengths, names out of order or that
// a safetensors file cannot have, tensors outside the file, tensors that are more than the file together, a wrong root.
Result<TensorTree> DecodeTensorTree(std::string_view bytes);

// ---- a part of a model, as files ----

// One tensor as a file of its own: `head`, then `bytes` bytes of the source from `begin` on.
struct TensorFile {
  std::string name;    // "tensor-00007.safetensors"
  std::string tensor;  // its name in the source
  std::string source;  // name of the file that the tree is of
  Sha256Digest source_digest;
  std::string head;
  uint64_t begin = 0, bytes = 0;
  Sha256Digest digest;  // of the file: the leaf
  uint64_t size() const { return head.size() + bytes; }
};

// The tensors that a part (spec.part) computes with. `trees`: of all the model's safetensors files, by their names.
// Errors: kInvalidArgument when names, shapes or types are not those of the model, as ModelSpec::CheckTensors says.
Result<std::vector<TensorFile>> FilesOfPart(const ModelSpec& spec,
                                            const std::map<std::string, TensorTree, std::less<>>& trees);

// model.safetensors.index.json of a folder of these files.
std::string PartIndexJson(const std::vector<TensorFile>& files);

}  // namespace heddle::model
