// Group `peft`: what making an update smaller costs beside copying it.
#include <chrono>
#include <cstring>

#include "aggregation/compression/compressor.h"
#include "bench.h"
#include "common/random.h"

namespace heddle::bench {
namespace {

constexpr int kPasses = 9;

// An adapter of rank 16 for 24 layers of width 1024, q and v: 6.3 MB.
StateDict Update() {
  const PhiloxStream random(1);
  StateDict update;
  uint64_t next = 0;
  for (int layer = 0; layer < 24; ++layer) {
    for (const auto& [name, shape] : {std::pair<const char*, Shape>{"q.lora_A", {16, 1024}},
                                      {"q.lora_B", {1024, 16}},
                                      {"v.lora_A", {16, 1024}},
                                      {"v.lora_B", {1024, 16}}}) {
      std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
      for (float& value : values) value = (random.UniformAt(next++) - 0.5F) * 1e-2F;
      update.emplace("layers." + std::to_string(layer) + "." + name, Tensor::FromFloats(shape, values));
    }
  }
  return update;
}

template <typename Work>
double Seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Result<Findings> Compression(const Context&) {
  struct Case {
    const char* id;
    std::vector<std::string> stages;
  };
  const Case cases[] = {{"int8", {"int8"}}, {"topk-int4", {"top_k:0.01", "int4", "error_feedback"}}};
  const StateDict update = Update();
  const StateDictSpec spec = SpecOf(update);
  const double gigabytes = static_cast<double>(TotalBytes(update)) * 1e-9;
  std::vector<std::byte> copy(TotalBytes(update));
  Findings found;
  for (const Case& one : cases) {
    HEDDLE_ASSIGN_OR_RETURN(compression::Pipeline pipeline, compression::Pipeline::Parse(one.stages));
    const compression::Compressor compressor(std::move(pipeline), 1);
    std::vector<double> encode, decode, copied;
    StateDict residual;
    size_t size = 0;
    Status status;
    for (int round = 0; round <= kPasses && status.ok(); ++round) {
      const double copy_seconds = Seconds([&] {
        std::byte* to = copy.data();
        for (const auto& [name, tensor] : update) {
          std::memcpy(to, tensor.bytes().data(), tensor.bytes().size());
          to += tensor.bytes().size();
        }
      });
      Result<compression::Encoded> encoded = Internal("not run");
      const double encode_seconds = Seconds(
          [&] { encoded = compressor.Encode(update, compressor.pipeline().error_feedback() ? &residual : nullptr); });
      if (!encoded.ok()) return encoded.status();
      size = encoded->bytes.size();
      const double decode_seconds = Seconds([&] {
        status = compressor.Decode(std::as_bytes(std::span(encoded->bytes)), spec, uint64_t{1} << 30).status();
      });
      if (round == 0) continue;  // warms up
      copied.push_back(copy_seconds);
      encode.push_back(encode_seconds);
      decode.push_back(decode_seconds);
    }
    HEDDLE_RETURN_IF_ERROR(status);
    char note[120];
    std::snprintf(note, sizeof note, "median of %d on one core; memcpy %.1f GB/s; %zu bytes for %.1f MB", kPasses,
                  gigabytes / Median(copied), size, gigabytes * 1e3);
    found.values[std::string("encode-") + one.id] = {gigabytes / Median(encode), note};
    found.values[std::string("decode-") + one.id] = {gigabytes / Median(decode), note};
  }
  return found;
}

}  // namespace

std::vector<Measurement> CompressionMeasurements() {
  return {{"peft",
           {{"encode-int8", "an update to 8 bits, input bytes a second", "GB/s", std::nullopt, true},
            {"decode-int8", "and back, output bytes a second", "GB/s", std::nullopt, true},
            {"encode-topk-int4", "the largest hundredth in 4 bits, with error feedback", "GB/s", std::nullopt, true},
            {"decode-topk-int4", "and back", "GB/s", std::nullopt, true}},
           Compression}};
}

}  // namespace heddle::bench
