#include "model/parts/tensor_tree.h"

#include <boost/json.hpp>
#include <cstring>
#include <utility>

#include "common/safetensors.h"
#include "common/safetensors_head.h"
#include "model/data/utf8.h"

namespace heddle::model {
namespace {

namespace json = boost::json;

constexpr std::string_view kMagic("HDTT\1", 5);
// A leaf begins with the length of a header, a multiple of 8; these do not.
constexpr std::string_view kNode("\1", 1), kRoot("\2", 1);

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Reads little-endian numbers; after a failure everything is zero or empty.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  std::string_view Bytes(size_t count) {
    if (count > left_.size()) failed_ = true;
    if (failed_) return {};
    const std::string_view out = left_.substr(0, count);
    left_.remove_prefix(count);
    return out;
  }
  template <typename T>
  T Number() {
    T value = 0;
    const std::string_view bytes = Bytes(sizeof value);
    if (!failed_) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  Sha256Digest Digest() {
    const auto digest = Sha256Digest::FromBytes(Bytes(Sha256Digest::kSize));
    return digest.ok() ? *digest : Sha256Digest();
  }
  bool failed() const { return failed_; }
  size_t left() const { return left_.size(); }

 private:
  std::string_view left_;
  bool failed_ = false;
};

Status Malformed(const std::string& what) { return InvalidArgument("the tensor tree " + what); }

Status CheckName(std::string_view name) {
  if (name.empty() || name.size() > kMaxTreeNameBytes || name == "__metadata__" ||
      FirstInvalidUtf8(name) < name.size()) {
    return Malformed("has a tensor whose name is empty, too long, not UTF-8 or kept for the format");
  }
  return OkStatus();
}

// Bytes of a tensor. Errors: kInvalidArgument for a shape that cannot be.
Result<uint64_t> BytesOf(const TensorSpec& spec) {
  HEDDLE_ASSIGN_OR_RETURN(const int64_t count, NumElements(spec.shape));
  if (count > int64_t{1} << 56) return Malformed("has a tensor of too many elements");
  return static_cast<uint64_t>(count) * DTypeSize(spec.dtype);
}

Result<std::pair<std::string, TreeTensor>> DecodeTensor(Reader& reader, uint64_t file_bytes) {
  TreeTensor out;
  std::string name(reader.Bytes(reader.Number<uint16_t>()));
  HEDDLE_RETURN_IF_ERROR(CheckName(name));
  const auto dtype = DTypeFromName(reader.Bytes(reader.Number<uint8_t>()));
  if (!dtype) return Malformed("has a tensor of an unknown dtype");
  out.spec.dtype = *dtype;
  const auto dimensions = reader.Number<uint8_t>();
  if (dimensions > kMaxTreeDimensions) return Malformed("has a tensor of too many dimensions");
  for (uint8_t i = 0; i < dimensions; ++i) out.spec.shape.push_back(reader.Number<int64_t>());
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t bytes, BytesOf(out.spec));
  out.begin = reader.Number<uint64_t>();
  out.leaf = reader.Digest();
  if (reader.failed()) return Malformed("is cut off");
  if (bytes == 0 && out.begin != 0) return Malformed("gives a place to a tensor without bytes");
  if (out.begin > file_bytes || bytes > file_bytes - out.begin) return Malformed("has a tensor outside of its file");
  return std::pair(std::move(name), std::move(out));
}

}  // namespace

// Pairs of neighbours level by level; one without a neighbour goes up as it is.
Sha256Digest TensorTree::Root() const {
  std::vector<Sha256Digest> level;
  for (const auto& [name, tensor] : tensors) level.push_back(tensor.leaf);
  while (level.size() > 1) {
    std::vector<Sha256Digest> up;
    for (size_t i = 0; i + 1 < level.size(); i += 2) {
      up.push_back(Sha256(std::string(kNode) + std::string(level[i].raw()) + std::string(level[i + 1].raw())));
    }
    if (level.size() % 2 == 1) up.push_back(level.back());
    level = std::move(up);
  }
  std::string top(kRoot);
  top += file.raw();
  Put<uint64_t>(file_bytes, &top);
  Put<uint64_t>(tensors.size(), &top);
  if (!level.empty()) top += level.front().raw();
  return Sha256(top);
}

Result<TensorTree> MakeTensorTree(std::span<const std::byte> bytes, const Sha256Digest& digest) {
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ParseSafetensors(bytes, nullptr, Misaligned::kKeep));
  if (file.tensors.size() > kMaxTreeTensors) {
    return InvalidArgument("a file of " + std::to_string(file.tensors.size()) + " tensors gets no tree; the limit is " +
                           std::to_string(kMaxTreeTensors));
  }
  TensorTree tree{digest, bytes.size(), {}};
  for (const auto& [name, tensor] : file.tensors) {
    HEDDLE_RETURN_IF_ERROR(CheckName(name));
    if (tensor.shape().size() > kMaxTreeDimensions) return Malformed("would have a tensor of too many dimensions");
    Sha256Hasher hasher;
    hasher.Update(SafetensorsHead({{name, tensor.spec()}}));
    hasher.Update(tensor.bytes());
    const bool empty = tensor.bytes().empty();
    const auto begin = empty ? uint64_t{0} : static_cast<uint64_t>(tensor.bytes().data() - bytes.data());
    tree.tensors.emplace(name, TreeTensor{tensor.spec(), begin, hasher.Finish()});
  }
  if (EncodeTensorTree(tree).size() > kMaxTensorTreeBytes) return Malformed("would be larger than its limit");
  return tree;
}

std::string EncodeTensorTree(const TensorTree& tree) {
  std::string out(kMagic);
  out += tree.file.raw();
  Put<uint64_t>(tree.file_bytes, &out);
  Put<uint32_t>(static_cast<uint32_t>(tree.tensors.size()), &out);
  for (const auto& [name, tensor] : tree.tensors) {
    Put<uint16_t>(static_cast<uint16_t>(name.size()), &out);
    out += name;
    const std::string_view dtype = DTypeName(tensor.spec.dtype);
    Put<uint8_t>(static_cast<uint8_t>(dtype.size()), &out);
    out += dtype;
    Put<uint8_t>(static_cast<uint8_t>(tensor.spec.shape.size()), &out);
    for (const int64_t dimension : tensor.spec.shape) Put<int64_t>(dimension, &out);
    Put<uint64_t>(tensor.begin, &out);
    out += tensor.leaf.raw();
  }
  out += tree.Root().raw();
  return out;
}

Result<TensorTree> DecodeTensorTree(std::string_view bytes) {
  if (bytes.size() > kMaxTensorTreeBytes) return Malformed("is larger than its limit");
  Reader reader(bytes);
  if (reader.Bytes(kMagic.size()) != kMagic) return Malformed("is none, or of another version");
  TensorTree tree;
  tree.file = reader.Digest();
  tree.file_bytes = reader.Number<uint64_t>();
  const auto count = reader.Number<uint32_t>();
  if (reader.failed() || count > kMaxTreeTensors) return Malformed("is cut off or has too many tensors");
  uint64_t total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    HEDDLE_ASSIGN_OR_RETURN(auto one, DecodeTensor(reader, tree.file_bytes));
    if (!tree.tensors.empty() && one.first <= tree.tensors.rbegin()->first) return Malformed("has names out of order");
    HEDDLE_ASSIGN_OR_RETURN(const uint64_t size, BytesOf(one.second.spec));
    if (size > tree.file_bytes - total) return Malformed("has more tensors than its file has bytes");
    total += size;
    tree.tensors.insert(std::move(one));
  }
  const Sha256Digest root = reader.Digest();
  if (reader.failed() || reader.left() > 0) return Malformed("is cut off, or has bytes behind its end");
  if (root != tree.Root()) return Malformed("has another root than its leaves");
  return tree;
}

Result<std::vector<TensorFile>> FilesOfPart(const ModelSpec& spec,
                                            const std::map<std::string, TensorTree, std::less<>>& trees) {
  StateDictSpec all;
  for (const auto& [file, tree] : trees) {
    for (const auto& [name, tensor] : tree.tensors) {
      if (!all.emplace(name, tensor.spec).second) {
        return InvalidArgument("the tensor '" + name + "' is in two of the model's files, one is " + file);
      }
    }
  }
  HEDDLE_RETURN_IF_ERROR(spec.CheckTensors(all));
  const StateDictSpec wanted = spec.WeightSpec();
  const auto names = spec.NamesOf(all);
  std::vector<TensorFile> out;
  for (const auto& [source, tree] : trees) {
    for (const auto& [name, tensor] : tree.tensors) {
      const auto ours = names.find(name);
      if (ours == names.end() || !wanted.contains(ours->second)) continue;
      TensorFile file;
      std::string number = std::to_string(out.size() + 1);
      number.insert(0, number.size() < 5 ? 5 - number.size() : 0, '0');
      file.name = "tensor-" + number + ".safetensors";
      file.tensor = name;
      file.source = source;
      file.source_digest = tree.file;
      file.head = SafetensorsHead({{name, tensor.spec}});
      file.begin = tensor.begin;
      HEDDLE_ASSIGN_OR_RETURN(file.bytes, BytesOf(tensor.spec));
      file.digest = tensor.leaf;
      out.push_back(std::move(file));
    }
  }
  return out;
}

std::string PartIndexJson(const std::vector<TensorFile>& files) {
  json::object map;
  uint64_t total = 0;
  for (const TensorFile& file : files) {
    map[file.tensor] = file.name;
    total += file.bytes;
  }
  return json::serialize(
             json::object{{"metadata", json::object{{"total_size", total}}}, {"weight_map", std::move(map)}}) +
         "\n";
}

}  // namespace heddle::model
