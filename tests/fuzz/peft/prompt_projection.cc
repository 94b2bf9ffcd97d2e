// Any bytes as the safetensors file of a searched or generated prompt: refused, or a prompt in the shape that the file
// asks for, which a second reading gives again.
#include "peft/adapter/prompt_projection.h"

#include <optional>

#include "common/safetensors.h"
#include "peft/adapter/prompt_generator.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using heddle::peft::PromptGenerator;
using heddle::peft::PromptProjection;

namespace {

struct Asked {
  heddle::Shape shape;
  int64_t products = 0;
};

// Nothing when it is refused.
std::optional<Asked> AskedOf(const heddle::StateDict& model) {
  const bool generated = PromptGenerator::IsIn(model), searched = PromptProjection::IsIn(model);
  if (generated && searched) return std::nullopt;
  if (generated) {
    const auto generator = PromptGenerator::Of(model);
    if (generator.ok()) {
      return Asked{{generator->tokens, generator->size},
                   generator->tokens * generator->width * (generator->inputs + generator->size)};
    }
    Require(generator.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    return std::nullopt;
  }
  const auto projection = PromptProjection::Of(model);
  if (projection.ok()) {
    return Asked{{projection->tokens, projection->size},
                 projection->tokens * projection->size * projection->dimensions};
  }
  Require(projection.status().code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
  return std::nullopt;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto owner = std::make_shared<std::string>(reinterpret_cast<const char*>(data), size);
  const auto file = heddle::ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  if (!file.ok() || !(PromptProjection::IsIn(file->tensors) || PromptGenerator::IsIn(file->tensors))) return 0;
  const std::optional<Asked> asked = AskedOf(file->tensors);
  if (!asked) {
    Require(!heddle::peft::WithPrompt(file->tensors).ok(), "and there is no prompt");
    return 0;
  }
  if (asked->products > 1 << 20) return 0;  // legal, and slow
  const auto first = heddle::peft::WithPrompt(file->tensors), second = heddle::peft::WithPrompt(file->tensors);
  Require(first.ok() && second.ok(), "there is a prompt");
  const auto prompt = first->find("prompt_embeddings");
  Require(prompt != first->end() && !PromptProjection::IsIn(*first) && !PromptGenerator::IsIn(*first),
          "in place of what makes it");
  Require(prompt->second.shape() == asked->shape, "in the shape that was asked for");
  Require(heddle::SerializeSafetensors(*first) == heddle::SerializeSafetensors(*second), "the same each time");
  return 0;
}
