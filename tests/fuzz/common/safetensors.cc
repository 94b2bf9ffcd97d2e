// Any bytes as a safetensors file: refused, or read into tensors that are written and read back the same.
#include "common/safetensors.h"

#include <algorithm>
#include <cstring>

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

namespace {

heddle::Result<heddle::SafetensorsFile> Parse(std::string_view text) {
  const auto owner = std::make_shared<std::string>(text);
  return heddle::ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
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
