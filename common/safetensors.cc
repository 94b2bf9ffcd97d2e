#include "common/safetensors.h"

#include <algorithm>
#include <bit>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "common/assert.h"
#include "common/safetensors_head.h"

namespace heddle {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors bytes are used in place");

struct Entry {
  std::string name;
  std::string dtype;
  Shape shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

constexpr size_t kMaxRank = 16;
constexpr std::string_view kPickle =
    " is a pickle, which can run code when it is read; convert it with safetensors.torch.save_file in Python, or "
    "download the model's safetensors files";

// A SAX handler that takes exactly the grammar of a safetensors header, so that duplicate keys, other types and deep
// nesting are seen (a DOM would hide the first and build the last).
class HeaderHandler {
 public:
  static constexpr size_t max_object_size = 1'000'000;
  static constexpr size_t max_array_size = 1'000'000;
  static constexpr size_t max_key_size = 4096;
  static constexpr size_t max_string_size = size_t{1} << 20;

  using error_code = boost::system::error_code;

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code& ec) {
    if (level_ == Level::kStart) return Enter(Level::kTop);
    if (level_ == Level::kTop) {
      if (key_ == "__metadata__") return Enter(Level::kMetadata);
      entries_.push_back({.name = key_});
      return Enter(Level::kEntry);
    }
    return Fail(ec, "an object where none belongs" + Where());
  }
  bool on_object_end(size_t, error_code& ec) {
    if (level_ == Level::kEntry) {
      const Entry& entry = entries_.back();
      if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets) {
        return Fail(ec, "the tensor '" + entry.name + "' lacks dtype, shape or data_offsets");
      }
    }
    return Enter(level_ == Level::kTop ? Level::kEnd : Level::kTop);
  }
  bool on_array_begin(error_code& ec) {
    if (level_ == Level::kEntry && field_ == "shape") return Enter(Level::kShape);
    if (level_ == Level::kEntry && field_ == "data_offsets") return Enter(Level::kOffsets);
    return Fail(ec, "an array where none belongs" + Where());
  }
  bool on_array_end(size_t, error_code&) { return Enter(Level::kEntry); }
  bool on_key_part(json::string_view part, size_t, error_code&) {
    partial_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, error_code& ec) {
    partial_.append(part.data(), part.size());
    std::string key = std::exchange(partial_, {});
    switch (level_) {
      case Level::kTop:
        if (!names_.insert(key).second) return Fail(ec, "the key '" + key + "' stands twice in the header");
        key_ = std::move(key);
        return true;
      case Level::kMetadata:
        if (metadata_.contains(key)) return Fail(ec, "the key '" + key + "' stands twice in __metadata__");
        field_ = std::move(key);
        return true;
      default:
        field_ = std::move(key);
        return NoteField(ec);
    }
  }
  bool on_string_part(json::string_view part, size_t, error_code&) {
    partial_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, size_t, error_code& ec) {
    partial_.append(part.data(), part.size());
    std::string value = std::exchange(partial_, {});
    if (level_ == Level::kMetadata) {
      metadata_[field_] = std::move(value);
      return true;
    }
    if (level_ == Level::kEntry && field_ == "dtype") {
      entries_.back().dtype = std::move(value);
      return true;
    }
    return Fail(ec, "a string where none belongs" + Where());
  }
  bool on_number_part(json::string_view, error_code&) { return true; }
  bool on_int64(int64_t value, json::string_view, error_code& ec) {
    if (value < 0) return Fail(ec, "a negative number" + Where());
    return Number(static_cast<uint64_t>(value), ec);
  }
  bool on_uint64(uint64_t value, json::string_view, error_code& ec) { return Number(value, ec); }
  bool on_double(double, json::string_view, error_code& ec) { return Fail(ec, "a number that is not whole" + Where()); }
  bool on_bool(bool, error_code& ec) { return Fail(ec, "a boolean where none belongs" + Where()); }
  bool on_null(error_code& ec) { return Fail(ec, "a null where none belongs" + Where()); }
  bool on_comment_part(json::string_view, error_code&) { return true; }
  bool on_comment(json::string_view, error_code&) { return true; }

  std::vector<Entry>& entries() { return entries_; }
  std::map<std::string, std::string>& metadata() { return metadata_; }
  const std::string& message() const { return message_; }

 private:
  enum class Level { kStart, kTop, kMetadata, kEntry, kShape, kOffsets, kEnd };

  bool Enter(Level level) {
    level_ = level;
    return true;
  }
  bool Fail(error_code& ec, std::string message) {
    message_ = std::move(message);
    ec = make_error_code(boost::system::errc::invalid_argument);
    return false;
  }
  std::string Where() const { return key_.empty() ? " in the header" : " in the header's entry '" + key_ + "'"; }
  bool NoteField(error_code& ec) {
    Entry& entry = entries_.back();
    bool* seen = field_ == "dtype"          ? &entry.has_dtype
                 : field_ == "shape"        ? &entry.has_shape
                 : field_ == "data_offsets" ? &entry.has_offsets
                                            : nullptr;
    if (seen == nullptr) return Fail(ec, "the unknown field '" + field_ + "'" + Where());
    if (*seen) return Fail(ec, "the field '" + field_ + "' stands twice" + Where());
    return *seen = true;
  }
  bool Number(uint64_t value, error_code& ec) {
    if (level_ == Level::kShape) {
      if (value > uint64_t{1} << 62) return Fail(ec, "a dimension that is too large" + Where());
      if (entries_.back().shape.size() == kMaxRank) return Fail(ec, "more than 16 dimensions" + Where());
      entries_.back().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (level_ == Level::kOffsets) {
      if (entries_.back().offsets.size() == 2) return Fail(ec, "more than two data_offsets" + Where());
      entries_.back().offsets.push_back(value);
      return true;
    }
    return Fail(ec, "a number where none belongs" + Where());
  }

  Level level_ = Level::kStart;
  std::string key_, field_, partial_, message_;
  std::set<std::string> names_;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Parses the JSON into `parser`'s handler.
Status ParseHeader(std::string_view text, json::basic_parser<HeaderHandler>& parser) {
  boost::system::error_code ec;
  size_t used = parser.write_some(false, text.data(), text.size(), ec);
  if (ec) {
    const std::string& message = parser.handler().message();
    return InvalidArgument("the safetensors header is not valid: " + (message.empty() ? ec.message() : message));
  }
  if (text.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
    return InvalidArgument("the safetensors header has text after its end");
  }
  return OkStatus();
}

// The tensor of an entry whose offsets CheckCoverage has passed.
Result<Tensor> MakeTensor(const Entry& entry, std::span<const std::byte> data, const std::shared_ptr<const void>& owner,
                          Misaligned misaligned) {
  const std::string who = "the tensor '" + entry.name + "'";
  std::optional<DType> dtype = DTypeFromName(entry.dtype);
  if (!dtype) return InvalidArgument(who + " has the dtype '" + entry.dtype + "', which is not supported");
  auto count = NumElements(entry.shape);
  if (!count.ok()) return count.status().Annotate(who);
  uint64_t begin = entry.offsets[0];
  uint64_t size = entry.offsets[1] - begin;
  if (static_cast<uint64_t>(*count) > data.size() || static_cast<uint64_t>(*count) * DTypeSize(*dtype) != size) {
    return InvalidArgument(who + " of shape " + ShapeToString(entry.shape) + " and dtype " + entry.dtype +
                           " does not fill its " + std::to_string(size) + " bytes");
  }
  std::span<const std::byte> bytes = data.subspan(begin, size);
  TensorSpec spec{*dtype, entry.shape};
  const bool aligned = reinterpret_cast<uintptr_t>(bytes.data()) % DTypeSize(*dtype) == 0;
  if (aligned || misaligned == Misaligned::kKeep) return Tensor(std::move(spec), bytes, owner);
  std::span<std::byte> copy;
  Tensor tensor = Tensor::Allocate(std::move(spec), &copy);
  std::memcpy(copy.data(), bytes.data(), bytes.size());
  return tensor;
}

// Every byte of the data belongs to exactly one tensor. Comes before any tensor is made: a misaligned one is copied,
// and a thousand that overlap would be a thousand copies of the whole file.
Status CheckCoverage(std::vector<Entry>& entries, uint64_t data_size) {
  for (const Entry& entry : entries) {
    const std::string who = "the tensor '" + entry.name + "'";
    if (entry.offsets.size() != 2) return InvalidArgument(who + " needs two data_offsets");
    if (entry.offsets[0] > entry.offsets[1] || entry.offsets[1] > data_size) {
      return InvalidArgument(who + " lies at bytes " + std::to_string(entry.offsets[0]) + " to " +
                             std::to_string(entry.offsets[1]) + ", outside the file's " + std::to_string(data_size) +
                             " bytes of data (a truncated file?)");
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.offsets[0] != position) {
      return InvalidArgument("the tensor '" + entry.name + "' starts at byte " + std::to_string(entry.offsets[0]) +
                             " where " + std::to_string(position) + " is expected: the file has a hole or an overlap");
    }
    position = entry.offsets[1];
  }
  if (position != data_size) {
    return InvalidArgument("the file has " + std::to_string(data_size - position) + " bytes after its last tensor");
  }
  return OkStatus();
}

// What else people have under the name of a safetensors file, and what to do; empty for a file that may be one. None of
// these can: where a header's length stands, they have a number above what is taken.
std::string_view OtherFormat(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs")) {
    return " is a git-LFS pointer and not the weights themselves; run `git lfs pull` where it was cloned, or download "
           "the file";
  }
  uint64_t header_size = 0;
  if (bytes.size() >= 8) std::memcpy(&header_size, bytes.data(), 8);
  const bool pickle = text.starts_with('\x80') || text.starts_with("PK\x03\x04");
  return pickle && header_size > kMaxSafetensorsHeaderBytes ? kPickle : "";
}

}  // namespace

Result<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                         Misaligned misaligned) {
  if (bytes.size() < 8) return InvalidArgument("not a safetensors file: it has fewer than 8 bytes");
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("not a safetensors file: its header would have " + std::to_string(header_size) +
                           " bytes, the limit is " + std::to_string(kMaxSafetensorsHeaderBytes));
  }
  if (header_size > bytes.size() - 8) {
    return InvalidArgument("the safetensors header of " + std::to_string(header_size) +
                           " bytes is cut off: the file has " + std::to_string(bytes.size()) + " bytes");
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_size);
  if (text.empty() || text[0] != '{')
    return InvalidArgument("not a safetensors file: its header does not start with '{'");
  json::parse_options options;
  options.max_depth = 4;
  json::basic_parser<HeaderHandler> parser(options);
  HEDDLE_RETURN_IF_ERROR(ParseHeader(text, parser));

  SafetensorsFile file;
  std::span<const std::byte> data = bytes.subspan(8 + header_size);
  std::vector<Entry>& entries = parser.handler().entries();
  HEDDLE_RETURN_IF_ERROR(CheckCoverage(entries, data.size()));
  for (const Entry& entry : entries) {
    HEDDLE_ASSIGN_OR_RETURN(Tensor tensor, MakeTensor(entry, data, owner, misaligned));
    file.tensors.emplace(entry.name, std::move(tensor));
  }
  file.metadata = std::move(parser.handler().metadata());
  return file;
}

Result<SafetensorsFile> ReadSafetensors(const fs::path& path, Misaligned misaligned) {
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapped, MappedFile::Open(path));
  if (const auto other = OtherFormat(mapped->bytes()); !other.empty()) {
    return InvalidArgument(path.string() + std::string(other));
  }
  auto file = ParseSafetensors(mapped->bytes(), mapped, misaligned);
  if (!file.ok()) {
    return Status(file.status().code(),
                  path.string() + ": " + file.status().message() + "; copy or save the file anew");
  }
  file->files.push_back(std::move(mapped));
  return file;
}

namespace {

Result<SafetensorsFile> ReadShards(const fs::path& folder, const fs::path& index_path, Misaligned misaligned) {
  HEDDLE_ASSIGN_OR_RETURN(std::string text, ReadFile(index_path, kMaxSafetensorsHeaderBytes));
  boost::system::error_code ec;
  json::value index = json::parse(text, ec);
  const json::value* map = !ec && index.is_object() ? index.as_object().if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object())
    return InvalidArgument(index_path.string() + ": it has no object 'weight_map'");
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->as_object()) {
    if (!shard.is_string()) return InvalidArgument(index_path.string() + ": weight_map's values must be file names");
    std::string file(shard.as_string());
    if (file.empty() || file[0] == '.' || file.find('/') != std::string::npos) {
      return InvalidArgument(index_path.string() + ": '" + file + "' is not the name of a file in the same folder");
    }
    shards.insert(file);
    shard_of.emplace(std::string(name), std::move(file));
  }
  SafetensorsFile all;
  for (const std::string& shard : shards) {
    auto read = ReadSafetensors(folder / shard, misaligned);
    if (read.status().code() == Code::kNotFound) {
      return NotFound(index_path.string() + " names the shard " + shard +
                      ", which is not in the folder; download it from where the index came from");
    }
    if (!read.ok()) return read.status();
    SafetensorsFile part = *std::move(read);
    for (auto& [name, tensor] : part.tensors) {
      auto expected = shard_of.find(name);
      if (expected == shard_of.end() || expected->second != shard) {
        return InvalidArgument((folder / shard).string() + ": the index does not place the tensor '" + name + "' here");
      }
      all.tensors.emplace(name, std::move(tensor));
    }
    all.metadata.merge(part.metadata);
    all.files.insert(all.files.end(), part.files.begin(), part.files.end());
  }
  for (const auto& [name, shard] : shard_of) {
    if (!all.tensors.contains(name)) {
      return InvalidArgument(index_path.string() + ": it places the tensor '" + name + "' in " + shard +
                             ", which does not hold it");
    }
  }
  return all;
}

}  // namespace

Result<SafetensorsFile> ReadModelSafetensors(const fs::path& folder, Misaligned misaligned) {
  std::error_code ignored;
  const fs::path single = folder / "model.safetensors";
  if (fs::exists(single, ignored)) return ReadSafetensors(single, misaligned);
  fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(index, ignored)) return ReadShards(folder, index, misaligned);
  for (const fs::path& path : {single, index}) {
    if (!fs::is_symlink(path, ignored)) continue;
    return InvalidArgument(path.string() + " is a link to " + fs::read_symlink(path, ignored).string() +
                           ", which is not there; copy the file itself");
  }
  fs::directory_iterator entries(folder, ignored);
  if (ignored) return ErrnoStatus(ignored.value(), "cannot read the model folder " + folder.string());
  for (; entries != fs::directory_iterator(); entries.increment(ignored)) {
    fs::path extension = entries->path().extension();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      return InvalidArgument(entries->path().string() + std::string(kPickle));
    }
    const std::string name = entries->path().filename().string();
    if (name.starts_with("model-") && extension == ".safetensors") {
      return InvalidArgument(entries->path().string() + " is one of several files, but " + index.string() +
                             ", which lists them, is not there; download it from where they came from");
    }
  }
  return NotFound("the folder " + folder.string() + " has neither model.safetensors nor model.safetensors.index.json");
}

std::string SafetensorsHead(const StateDictSpec& tensors, const std::map<std::string, std::string>& metadata) {
  auto quoted = [](std::string_view text) { return json::serialize(json::string(text)); };
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      header += (header.back() == '{' ? "" : ",") + quoted(key) + ":" + quoted(value);
    }
    header += "}";
  }
  uint64_t offset = 0;
  for (const auto& [name, spec] : tensors) {
    HEDDLE_ASSERT(name != "__metadata__", "the name that the format keeps for itself");
    const auto count = NumElements(spec.shape);
    HEDDLE_ASSERT(count.ok(), "shapes that can be counted");
    const uint64_t end = offset + static_cast<uint64_t>(*count) * DTypeSize(spec.dtype);
    header += (header.size() == 1 ? "" : ",") + quoted(name) + ":{\"dtype\":\"" + std::string(DTypeName(spec.dtype)) +
              "\",\"shape\":[";
    for (size_t i = 0; i < spec.shape.size(); ++i) header += (i ? "," : "") + std::to_string(spec.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  const uint64_t header_size = header.size();
  std::string out(reinterpret_cast<const char*>(&header_size), 8);
  return out + header;
}

std::string SerializeSafetensors(const StateDict& tensors, const std::map<std::string, std::string>& metadata) {
  const std::string head = SafetensorsHead(SpecOf(tensors), metadata);
  std::string out;
  out.reserve(head.size() + TotalBytes(tensors));
  out += head;
  for (const auto& [name, tensor] : tensors) {
    out.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
  }
  return out;
}

Status WriteSafetensors(const fs::path& path, const StateDict& tensors,
                        const std::map<std::string, std::string>& metadata) {
  return WriteFileAtomically(path, SerializeSafetensors(tensors, metadata));
}

}  // namespace heddle
