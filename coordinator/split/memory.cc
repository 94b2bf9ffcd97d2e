#include "coordinator/split/memory.h"

#include <algorithm>
#include <cmath>

#include "model/config/memory_estimate.h"
#include "protocol/split/tensor_code.h"

namespace heddle::coordinator {
namespace {

constexpr uint64_t kListBytes = 7;  // of a token, beside its tensor: mask, segment, target

uint64_t Product(int64_t a, int64_t b) { return static_cast<uint64_t>(a) * static_cast<uint64_t>(b); }

uint64_t Length(const protocol::SplitPlan& plan, const model::ModelSpec& part) {
  const auto most = static_cast<uint64_t>(part.MaxLength());
  return part.TakesImages() ? most : std::min(most, uint64_t{plan.sequence_length});
}

// Elements that one of the part's layers keeps of a token for the way back, with any of its linear layers trained.
uint64_t KeptOfALayer(const protocol::SplitPlan& plan, const model::ModelSpec& part, uint64_t layers) {
  model::MemorySettings settings;
  settings.length = static_cast<int64_t>(Length(plan, part));
  settings.targets = part.LinearModules();
  settings.rank = 0;
  double dropped = 0;
  if (plan.server.peft_type == "LORA") {
    settings.rank = plan.server.r;
    for (const model::LinearSpec& linear : settings.targets) {
      if (!linear.output && plan.server.lora_dropout > 0) dropped += 2 * static_cast<double>(linear.in);
    }
  }
  const double of_dropout = dropped / static_cast<double>(std::max(uint64_t{1}, layers));
  return static_cast<uint64_t>(std::ceil(model::KeptOfALayer(part, settings) + of_dropout));
}

}  // namespace

SplitMemory EstimateSplitMemory(const protocol::SplitPlan& plan, const model::ModelSpec& part, uint64_t device_adapter,
                                uint64_t server_adapter, bool checkpoint_layers) {
  constexpr uint64_t kFloat = sizeof(float);
  const uint64_t tokens = uint64_t{plan.batch_size} * Length(plan, part);
  const uint64_t layers = part.Layers().size();
  const auto hidden = static_cast<uint64_t>(part.hidden_size);
  const uint64_t layer = tokens * KeptOfALayer(plan, part, layers) * kFloat;
  const uint64_t micro = checkpoint_layers ? tokens * layers * hidden * kFloat + layer : layers * layer;
  const bool own = plan.server_mode == "per_device";
  const uint64_t moments = plan.server.optimizer == "SGD" ? 0 : 2;
  const uint64_t copy = server_adapter * (2 + moments) + server_adapter * (1 + moments);
  const uint64_t logits = plan.u_shaped() ? 0 : 3 * tokens * Product(part.vocab_size, kFloat);
  const auto frame = [&](protocol::CutEncoding encoding) {
    return protocol::EncodedBytes(encoding, tokens, hidden) + kListBytes * tokens;
  };
  const protocol::SplitSchedule schedule = plan.schedule();
  const uint64_t largest = std::max(frame(plan.encoding), frame(plan.gradient_encoding));
  // In a U a micro-batch waits for its tail; else it is there while it is computed.
  const uint64_t held = plan.u_shaped() ? std::min(plan.pipeline, plan.gradient_accumulation_steps) : 1;

  SplitMemory out;
  out.fixed = Product(part.NumParameters(), kFloat) + 3 * (device_adapter + server_adapter) + (own ? 0 : copy);
  out.pass = layer + logits;
  out.session = (own ? copy : 2 * server_adapter) + held * micro +
                largest * (schedule.MaxInFlight() + uint64_t{2} * schedule.RequestsOfStep());
  out.update = device_adapter + (own ? server_adapter : 0);
  return out;
}

}  // namespace heddle::coordinator
