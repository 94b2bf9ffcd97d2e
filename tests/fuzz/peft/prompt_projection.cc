// Any bytes as the safetensors file of a searched prompt: refused, or a prompt of finite numbers in the shape that the
// file asks for, which a second reading gives again.
#include "peft/adapter/prompt_projection.h"

#include <algorithm>

#include "common/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::peft::PromptProjection;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto owner = std::make_shared<std::string>(reinterpret_cast<const char*>(data), size);
  const auto file = heddle::ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  if (!file.ok() || !PromptProjection::IsIn(file->tensors)) return 0;
  const auto projection = PromptProjection::Of(file->tensors);
  if (!projection.ok()) {
    Require(projection.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    Require(!heddle::peft::WithPrompt(file->tensors).ok(), "and there is no prompt");
    return 0;
  }
  if (projection->tokens * projection->size * projection->dimensions > 1 << 20) return 0;  // legal, and slow
  const auto first = heddle::peft::WithPrompt(file->tensors), second = heddle::peft::WithPrompt(file->tensors);
  Require(first.ok() && second.ok(), "there is a prompt");
  const auto prompt = first->find("prompt_embeddings");
  Require(prompt != first->end() && !PromptProjection::IsIn(*first), "in place of its coordinates");
  const heddle::Shape shape = {projection->tokens, projection->size};
  Require(prompt->second.shape() == shape, "in the shape that was asked for");
  Require(heddle::SerializeSafetensors(*first) == heddle::SerializeSafetensors(*second), "the same each time");
  return 0;
}
