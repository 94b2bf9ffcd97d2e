// The safetensors file format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes.
// See https://github.com/huggingface/safetensors#format. The reader trusts nothing in the header: length limit, JSON
// depth, duplicate keys, known dtypes, offsets inside the file, no holes, no overlap, size == shape x dtype.
// Little-endian hosts only.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/state_dict.h"
#include "common/status.h"

namespace heddle {

struct SafetensorsFile {
  StateDict tensors;                            // views into the mapping or buffer; keep it alive by themselves
  std::map<std::string, std::string> metadata;  // "__metadata__"
  // What the tensors are views into, when they were read from files; a copied one (below) is not.
  std::vector<std::shared_ptr<const MappedFile>> files;
};

// What becomes of a tensor that the file does not align for its type (older writers did not pad the header).
enum class Misaligned {
  kCopy,  // it is copied to where values<T>() may be asked of it
  kKeep,  // it is a view as all others: for readers of bytes(), and who only wants names and shapes
};

inline constexpr size_t kMaxSafetensorsHeaderBytes = size_t{16} << 20;

// Parses bytes owned by `owner`. Errors: kInvalidArgument with what is wrong and the tensor's name.
Result<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                         Misaligned misaligned = Misaligned::kCopy);

// Maps and parses. Errors: those of MappedFile::Open and ParseSafetensors, with the path in front; kInvalidArgument
// also for a pickle or a git-LFS pointer, by these names.
Result<SafetensorsFile> ReadSafetensors(const std::filesystem::path& path, Misaligned misaligned = Misaligned::kCopy);

// Reads a model folder: model.safetensors, or model.safetensors.index.json with its shards. A folder that only has
// pickle weights (*.bin, *.pt, *.pth) is refused with a sentence that says how to convert. Errors: those of
// ReadSafetensors; kInvalidArgument when index and shards disagree, shards have no index, a file is a link to nowhere
// or there are only pickles; kNotFound when there is nothing to read or a shard is absent.
Result<SafetensorsFile> ReadModelSafetensors(const std::filesystem::path& folder,
                                             Misaligned misaligned = Misaligned::kCopy);

// The canonical serialisation: tensors in name order, header without spaces except padding to 8 bytes at its end. The
// same StateDict and metadata give the same bytes, hence the same SHA-256. Names must be UTF-8 and none may be
// "__metadata__" (asserted), as is true of all that ParseSafetensors returns.
std::string SerializeSafetensors(const StateDict& tensors,
                                 const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// SerializeSafetensors through WriteFileAtomically.
Status WriteSafetensors(const std::filesystem::path& path, const StateDict& tensors,
                        const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace heddle
