#include "client/split/answer_size.h"

#include <algorithm>

#include "model/config/cut.h"
#include "model/config/registry.h"
#include "peft/adapter/slots.h"
#include "protocol/limits.h"
#include "protocol/split/frame.h"

namespace heddle::client {
namespace {

using protocol::FrameKind;

uint64_t LargestOfAStep(const protocol::SplitPlan& plan, const model::ModelSpec& spec) {
  protocol::FrameLimits limits;
  limits.rows = plan.batch_size;
  limits.length = static_cast<uint32_t>(spec.MaxLength());
  if (!spec.TakesImages()) limits.length = std::min(limits.length, plan.sequence_length);
  limits.width = static_cast<uint32_t>(spec.hidden_size);
  limits.any_encoding = false;
  uint64_t largest = 0;
  for (const auto& [kind, encoding] :
       {std::pair{FrameKind::kHidden, plan.encoding}, std::pair{FrameKind::kGradient, plan.gradient_encoding}}) {
    limits.encoding = encoding;
    largest = std::max(largest, LargestTensorFrame(kind, limits));
  }
  return largest;
}

}  // namespace

Result<uint64_t> LargestSplitAnswer(const protocol::SplitPlan& plan) {
  HEDDLE_ASSIGN_OR_RETURN(model::ModelSpec spec, model::ReadModelConfig(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const model::SplitTopology topology, model::SplitTopologyFromName(plan.topology));
  HEDDLE_ASSIGN_OR_RETURN(spec.part, model::DevicePart(spec, {plan.cut, topology}));
  uint64_t welcome = protocol::kMaxSplitControlBytes;
  if (plan.device.trains()) {
    // Of a tensor in a safetensors' head, beside its name: type, shape and offsets.
    constexpr uint64_t kHeadBytes = 256;
    HEDDLE_ASSIGN_OR_RETURN(const auto config, peft::AdapterConfig::FromJson(plan.device.AdapterConfigJson()));
    HEDDLE_ASSIGN_OR_RETURN(const StateDictSpec adapter, peft::AdapterSpec(spec, config));
    for (const auto& [name, tensor] : adapter) {
      HEDDLE_ASSIGN_OR_RETURN(const int64_t elements, NumElements(tensor.shape));
      welcome += name.size() + kHeadBytes + sizeof(float) * static_cast<uint64_t>(elements);
    }
  }
  return std::min(std::max(welcome, LargestOfAStep(plan, spec)), protocol::kMaxSplitFrameBytes);
}

}  // namespace heddle::client
