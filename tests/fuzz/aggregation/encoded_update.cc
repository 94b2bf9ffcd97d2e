// Any bytes as an encoded update: what is decoded has the expected tensors, all finite, no more of them than can have
// been sent, from a length that is possible, and comes out of another encoding as the definition says; what is refused
// gets a sentence. The first byte chooses the stages; 255: the lines that follow are a recipe's words; 254: a plan's,
// of which the first may ask for clipping and noise; 253: a model's file as devices get it, which decodes to finite
// tensors, at most sixteen times as long, that are again the same when they are coded and decoded once more.
#include <cmath>
#include <memory>

#include "aggregation/compression/coded_model.h"
#include "aggregation/compression/compressor.h"
#include "aggregation/privacy/update_privacy.h"
#include "common/safetensors.h"
#include "tests/fuzz/encoded_update.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::compression;

namespace {

std::vector<std::string> WordsOf(fuzz::Input input) {
  std::vector<std::string> words;
  while (!input.rest().empty()) words.emplace_back(input.TakeLine());
  return words;
}

void CheckWords(const std::vector<std::string>& words) {
  const auto pipeline = Pipeline::Parse(words);
  if (!pipeline.ok()) {
    Require(pipeline.status().code() == Code::kInvalidArgument && !pipeline.status().message().empty(),
            "what is refused gets a sentence");
    return;
  }
  const size_t stages = pipeline->stages().size() + (pipeline->error_feedback() ? 1 : 0);
  Require(stages == words.size() && words.size() <= Pipeline::kMaxWords, "a stage a word");
  const auto again = Pipeline::Parse(pipeline->Words());
  Require(again.ok() && *again == *pipeline, "words are written so that they are read as the same",
          pipeline->ToString());
}

void CheckPlanned(const std::vector<std::string>& words) {
  const auto planned = privacy::ParseUpload(words);
  if (!planned.ok()) {
    Require(planned.status().code() == Code::kInvalidArgument && !planned.status().message().empty(),
            "what is refused gets a sentence");
    return;
  }
  std::vector<std::string> again = planned->privacy.Words();
  Require(again.size() + planned->rest.size() == words.size(), "no word is lost");
  again.insert(again.end(), planned->rest.begin(), planned->rest.end());
  const auto read = privacy::ParseUpload(again);
  Require(read.ok() && read->privacy == planned->privacy && read->rest == planned->rest,
          "words are written so that they are read as the same");
  const StateDict update = {{"a", Tensor::FromFloats({3}, std::vector<float>{3, -4, 1e30F})}};
  const auto sent = privacy::MakePrivate(update, planned->privacy, "secret");
  Require(sent.ok(), "whatever is asked for in range can be done", sent.status().message());
  for (const float value : sent->at("a").values<float>()) Require(std::isfinite(value), "what is sent is finite");
}

void CheckDecoded(const Compressor& compressor, const StateDict& decoded, size_t size) {
  const StateDictSpec spec = fuzz::EncodedSpec();
  Require(SpecOf(decoded) == spec, "the expected tensors");
  const auto bounds = compressor.SizeOf(spec);
  Require(bounds.ok() && size >= bounds->min && size <= bounds->max, "a length that is possible");
  uint64_t set = 0;
  for (const auto& [name, tensor] : decoded) {
    for (const float value : tensor.values<float>()) {
      Require(std::isfinite(value), "what is decoded is finite", name);
      if (value != 0) ++set;
    }
  }
  Require(set <= bounds->sent_values, "no more values than can have been sent");
  // Once more: with error feedback, what is left and what is sent again is what was decoded, where values keep their
  // bits.
  StateDict left;
  const auto encoded = compressor.Encode(decoded, &left);
  Require(encoded.ok(), "what is decoded can be encoded", encoded.status().message());
  const auto again = compressor.Decode(std::as_bytes(std::span(encoded->bytes)), spec, 1 << 20);
  Require(again.ok(), "and decoded again", again.status().message());
  const std::span<const Stage> stages = compressor.pipeline().stages();
  if (!stages.empty() && !IsSelection(stages.back().kind)) return;
  for (const auto& [name, tensor] : decoded) {
    const auto values = tensor.values<float>(), sent = again->at(name).values<float>();
    const auto rest = left.at(name).values<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      Require(sent[i] + rest[i] == values[i], "nothing is lost", name);
    }
  }
}

void CheckModel(std::string_view bytes) {
  const auto owner = std::make_shared<const std::string>(bytes);
  const auto file = ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
  if (!file.ok()) return;
  const auto decoded = DecodedModel(file->tensors);
  if (!decoded.ok()) {
    Require(decoded.status().code() == Code::kInvalidArgument && !decoded.status().message().empty(),
            "what is refused gets a sentence");
    return;
  }
  Require(decoded->size() == file->tensors.size(), "a tensor for each");
  Require(TotalBytes(*decoded) <= 16 * bytes.size(), "a file does not grow without bounds");
  for (const auto& [name, tensor] : *decoded) {
    if (file->tensors.contains(name)) continue;
    for (const float value : tensor.values<float>()) Require(std::isfinite(value), "what was coded is finite", name);
  }
  const auto again = DecodedModel(CodedModel(*decoded, 1000));
  Require(again.ok() && SpecOf(*again) == SpecOf(*decoded), "what is decoded can be coded");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t choice = input.TakeByte();
  if (choice == 255) {
    CheckWords(WordsOf(input));
    return 0;
  }
  if (choice == 254) {
    CheckPlanned(WordsOf(input));
    return 0;
  }
  if (choice == 253) {
    CheckModel(input.rest());
    return 0;
  }
  const auto all = fuzz::EncodedStages();
  const auto pipeline = Pipeline::Parse(all[choice % all.size()]);
  Require(pipeline.ok(), "the test's stages are good", pipeline.status().message());
  const Compressor compressor(*pipeline, fuzz::kEncodedSeed);
  const std::string_view bytes = input.rest();
  const auto decoded = compressor.Decode(std::as_bytes(std::span(bytes)), fuzz::EncodedSpec(), 1 << 20);
  const std::string shapes = compressor.FingerprintIn(std::as_bytes(std::span(bytes)));
  Require(shapes.empty() || shapes.size() == 8, "what names the shapes has 8 bytes, or is not there");
  if (decoded.ok()) {
    Require(shapes == Compressor::Fingerprint(fuzz::EncodedSpec()), "an update that is decoded names its shapes");
    CheckDecoded(compressor, *decoded, bytes.size());
  } else {
    Require((decoded.status().code() == Code::kInvalidArgument || decoded.status().code() == Code::kOutOfRange) &&
                !decoded.status().message().empty(),
            "what is refused gets a sentence");
  }
  return 0;
}
