// Any bytes as a safetensors file: refused, or read into tensors that are written and read back the same. After a line
// "index" (no file begins so: its header would be too long): a line of model.safetensors.index.json, and a file
// c.safetensors beside the two shards that are there. Refused, or the tensors that the index places, each of its shard.
#include "common/safetensors.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>

#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;

namespace {

heddle::Result<heddle::SafetensorsFile> Parse(std::string_view text) {
  const auto owner = std::make_shared<std::string>(text);
  return heddle::ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
}

namespace json = boost::json;

// A folder with two shards, and a file of the same tensors, with other values, in the folder above.
struct ModelFolder {
  heddle::fuzz::Scratch scratch;
  std::map<std::string, heddle::StateDict> shards;  // by their files' names

  ModelFolder() {
    std::error_code error;
    std::filesystem::create_directory(path(), error);
    Require(!error, "the test can make a folder");
    const float values[] = {1, -2, 0.5F};
    shards["a.safetensors"]["x"] = heddle::Tensor::FromFloats({3}, values);
    shards["a.safetensors"]["y"] = heddle::Tensor::FromFloats({1, 2}, std::span(values, 2));
    shards["b.safetensors"]["z"] = heddle::Tensor::FromFloats({}, std::span(values, 1));
    const float others[] = {7, 7, 7};
    const heddle::StateDict outside = {{"x", heddle::Tensor::FromFloats({3}, others)}};
    for (const auto& [name, tensors] : shards) Write(name, heddle::SerializeSafetensors(tensors));
    scratch.Write("a.safetensors", heddle::SerializeSafetensors(outside));
  }

  std::filesystem::path path() const { return scratch / "model"; }
  void Write(const std::string& name, std::string_view content) const { scratch.Write("model/" + name, content); }
};

// `expected` is the tensor's own shard, read by itself.
void CheckTensor(const std::string& name, const heddle::Tensor& tensor, const heddle::StateDict& expected) {
  const auto same = expected.find(name);
  Require(same != expected.end(), "a tensor comes from a shard that has it", name);
  Require(tensor.dtype() == same->second.dtype() && tensor.shape() == same->second.shape(), "it is what it was", name);
  const auto bytes = tensor.bytes(), others = same->second.bytes();
  Require(std::equal(bytes.begin(), bytes.end(), others.begin(), others.end()), "with the bytes of that shard", name);
}

void ReadIndex(heddle::fuzz::Input input) {
  static ModelFolder folder;
  const std::string_view index = input.TakeLine();
  folder.Write("model.safetensors.index.json", index);
  folder.Write("c.safetensors", input.rest());
  const auto model = heddle::ReadModelSafetensors(folder.path());
  if (!model.ok()) {
    const heddle::Code code = model.status().code();
    Require(code == heddle::Code::kInvalidArgument || code == heddle::Code::kNotFound,
            "what is wrong is the index or a shard", model.status().message());
    return;
  }
  const auto third = Parse(input.rest());
  folder.shards["c.safetensors"] = third.ok() ? third->tensors : heddle::StateDict();
  json::error_code error;
  const json::value root = json::parse(index, error);
  const json::value* map = !error && root.is_object() ? root.get_object().if_contains("weight_map") : nullptr;
  Require(map != nullptr && map->is_object(), "an index that is read has a map of weights", index);
  const json::object& weights = map->get_object();
  Require(weights.size() == model->tensors.size(), "there are as many tensors as it places", index);
  for (const auto& [name, file] : weights) {
    Require(file.is_string(), "in a file", name);
    const auto shard = folder.shards.find(file.get_string().c_str());  // up to a NUL, as the system reads names
    Require(shard != folder.shards.end(), "which is one of the folder's", name);
    const auto tensor = model->tensors.find(std::string_view(name));
    Require(tensor != model->tensors.end(), "and each of these is there", name);
    CheckTensor(tensor->first, tensor->second, shard->second);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.starts_with("index\n")) {
    heddle::fuzz::Input input(data, size);
    input.TakeLine();
    ReadIndex(input);
    return 0;
  }
  const auto first = Parse(text);
  if (!first.ok()) {
    Require(first.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return 0;
  }
  Require(heddle::TotalBytes(first->tensors) <= size, "the tensors are not larger than the file");
  const std::string written = heddle::SerializeSafetensors(first->tensors, first->metadata);
  const auto second = Parse(written);
  Require(second.ok(), "what is written can be read", second.status().message());
  Require(second->metadata == first->metadata, "metadata survives");
  Require(heddle::SpecOf(second->tensors) == heddle::SpecOf(first->tensors), "names, types and shapes survive");
  for (const auto& [name, tensor] : first->tensors) {
    const auto other = second->tensors.at(name).bytes();
    Require(std::equal(tensor.bytes().begin(), tensor.bytes().end(), other.begin(), other.end()), "bytes survive",
            name);
    const auto floats = tensor.ToFloats();
    if (floats.ok()) Require(floats->size() == static_cast<size_t>(tensor.numel()), "one float an element", name);
  }
  Require(heddle::SerializeSafetensors(second->tensors, second->metadata) == written, "the written form is canonical");
  return 0;
}
