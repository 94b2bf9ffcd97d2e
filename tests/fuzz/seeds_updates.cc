// Seeds of encoded updates.
#include "aggregation/compression/coded_model.h"
#include "aggregation/compression/compressor.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "tests/fuzz/encoded_update.h"
#include "tests/fuzz/seeds.h"

namespace heddle::fuzz {

void EncodedUpdateSeeds() {
  StateDict update;
  uint64_t next = 0;
  const PhiloxStream random(1);
  for (const auto& [name, spec] : EncodedSpec()) {
    std::vector<float> values(static_cast<size_t>(*NumElements(spec.shape)));
    for (float& value : values) value = 2 * random.UniformAt(next++) - 1;
    update.emplace(name, Tensor::FromFloats(spec.shape, values));
  }
  uint64_t choice = 0;
  std::string words;
  for (const std::vector<std::string>& stages : EncodedStages()) {
    const auto pipeline = compression::Pipeline::Parse(stages);
    const auto encoded = compression::Compressor(*pipeline, kEncodedSeed).Encode(update, nullptr);
    if (!encoded.ok()) return Fail(encoded.status().ToString());
    Write("fuzz_encoded_update", "stages-" + Number('a' + choice, 1), Number(choice, 1) + encoded->bytes);
    ++choice;
    for (const std::string& word : stages) words += word + "\n";
  }
  Write("fuzz_encoded_update", "model", Number(253, 1) + SerializeSafetensors(compression::CodedModel(update, 1000)));
  Write("fuzz_encoded_update", "words", Number(255, 1) + "random_mask:0.5\ntop_k:0.010\nint4\nerror_feedback");
  Write("fuzz_encoded_update", "words-private", Number(254, 1) + "clip:0.5\nnoise:1.25\ntop_k:0.010\nint4");
  Write("fuzz_encoded_update", "words-wrong", Number(255, 1) + words);
}

}  // namespace heddle::fuzz
