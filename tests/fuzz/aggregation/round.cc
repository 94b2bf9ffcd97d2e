// Any bytes as two rounds of any method: which method, its settings, its state, and what devices send. What Validate
// accepts is folded; a round ends with a model or a typed refusal; the order of updates changes no bit; model and state
// are what the next round can begin with; and no state, settings or updates end the process.
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "aggregation/aggregator.h"
#include "aggregation/growing/trials.h"
#include "common/safetensors.h"
#include "common/sparse_delta.h"
#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::aggregation;

namespace {

constexpr size_t kMaxUpdates = 8;

StateDict Adapter(float scale) {
  const auto tensor = [&](Shape shape) {
    std::vector<float> values(static_cast<size_t>(*NumElements(shape)));
    for (size_t i = 0; i < values.size(); ++i) values[i] = scale * static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
    return Tensor::FromFloats(std::move(shape), values);
  };
  return {{"m.q.lora_A.weight", tensor({2, 3})}, {"m.q.lora_B.weight", tensor({4, 2})}, {"score.bias", tensor({2})}};
}

struct Sent {
  StateDict update;
  UpdateInfo info;
};

// Values of the devices' own making in tensors that fit or do not.
Sent TakeUpdate(heddle::fuzz::Input* input, const StateDictSpec& model, const DeviceRules& rules, size_t index) {
  Sent sent;
  sent.info = {.num_examples = input->TakeNumber(2),
               .num_steps = static_cast<uint32_t>(input->TakeNumber(2)),
               .rank = static_cast<int8_t>(input->TakeByte()),
               .device = "device-" + std::to_string(index)};
  const uint8_t odd = input->TakeByte();
  const auto exponent = static_cast<int>(input->TakeByte() % 64) - 48;
  for (const auto& [name, spec] : UpdateSpec(model, rules, std::max<int64_t>(0, sent.info.rank))) {
    std::span<std::byte> bytes;
    TensorSpec made = spec;
    if (odd == 1) made.dtype = DType::kF16;
    if (odd == 2 && !made.shape.empty()) made.shape.front() += 1;
    Tensor tensor = Tensor::Allocate(made, &bytes);
    if (odd == 3) {  // any bits
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(input->TakeByte());
    } else if (odd != 1) {
      for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        const float value = std::ldexp(static_cast<float>(static_cast<int8_t>(input->TakeByte())), exponent);
        std::memcpy(bytes.data() + i, &value, sizeof value);
      }
    }
    sent.update.emplace((odd == 4 ? "x." : "") + name, std::move(tensor));
  }
  if (odd == 5 && !sent.update.empty()) sent.update.erase(sent.update.begin());
  return sent;
}

std::string BytesOf(const RoundModel& made) {
  return SerializeSafetensors(made.model) + SerializeSafetensors(made.state);
}

// The round's model, or why there is none; `accepted` are those that Validate takes.
Result<RoundModel> RunRound(const std::string& method, const StateDict& model, const StateDict& state,
                            const AggregatorOptions& options, const std::vector<Sent>& accepted) {
  auto aggregator = MakeAggregator(method, model, options, state);
  if (!aggregator.ok()) return aggregator.status();
  for (const Sent& sent : accepted) {
    const Status folded = (*aggregator)->Fold(sent.update, sent.info);
    Require(folded.ok(), "what is accepted is folded", method + ": " + folded.message());
  }
  Require((*aggregator)->num_folded() == accepted.size(), "and counted", method);
  return std::move(**aggregator).Finish();
}

std::vector<Sent> Accepted(const std::string& method, const StateDict& model, const StateDict& state,
                           const AggregatorOptions& options, heddle::fuzz::Input* input) {
  const auto aggregator = MakeAggregator(method, model, options, state);
  const auto rules = RulesOf(method, options);
  if (!aggregator.ok() || !rules.ok()) return {};
  std::vector<Sent> accepted;
  const size_t count = input->TakeByte() % (kMaxUpdates + 1);
  for (size_t k = 0; k < count; ++k) {
    const auto group = static_cast<uint32_t>(rules->groups > 0 ? k % rules->groups : 0);
    Sent sent = TakeUpdate(input, SpecOf(rules->groups > 0 ? GroupModel(model, group) : model), *rules, k);
    sent.info.group = group;
    sent.info.first_loss = static_cast<double>(k % 4);
    const Validity validity = (*aggregator)->Validate(sent.update, sent.info);
    if (validity.ok()) {
      accepted.push_back(std::move(sent));
      continue;
    }
    Require(!validity.message.empty(), "a refusal says why", method);
    const bool of_values = validity.refusal == Refusal::kNotFinite || validity.refusal == Refusal::kOutOfBounds ||
                           validity.refusal == Refusal::kNormTooLarge;
    if (of_values) continue;  // Fold does not read the values again
    Require((*aggregator)->Fold(sent.update, sent.info).code() == Code::kInvalidArgument, "Fold refuses it too",
            method);
    Require((*aggregator)->num_folded() == 0, "and does not count it", method);
  }
  return accepted;
}

void CheckModel(const std::string& method, const RoundModel& made) {
  for (const StateDict* dict : {&made.model, &made.state}) {
    for (const auto& [name, tensor] : *dict) {
      if (name == kDenseSeedName) continue;
      Require(tensor.dtype() == DType::kF32, "models and states are F32", method);
      for (const float value : tensor.values<float>()) Require(std::isfinite(value), "and finite", method + " " + name);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::fuzz::Input input(data, size);
  const auto names = AggregatorNames();
  const std::string method = names[input.TakeByte() % names.size()];
  AggregatorOptions options;
  options.max_num_examples = 1000;
  options.max_updates = kMaxUpdates;
  options.fresh_adapter = [](uint32_t) { return Adapter(0.125F); };
  options.clip_norm = input.TakeByte() % 2 == 0 ? 0 : 10;
  // Each setting somewhere in its range.
  for (const Setting& setting : SettingsOf(method)) {
    const uint8_t place = input.TakeByte();
    if (place % 4 == 0) continue;
    double value = place % 4 == 1 ? setting.min : place % 4 == 2 ? setting.max : setting.min + place / 64.0;
    if (setting.whole) value = std::floor(value);
    options.method[std::string(setting.name)] = std::min(value, setting.max);
  }
  // Of whatever a state file might hold.
  StateDict state;
  const std::string_view stored = input.TakeBytes(input.TakeNumber(2));
  const auto owner = std::make_shared<std::string>(stored);
  if (const auto parsed = ParseSafetensors(std::as_bytes(std::span(*owner)), owner); parsed.ok()) {
    state = parsed->tensors;
  }
  // Of the kind that the method takes.
  StateDict adapter = Adapter(1);
  if (method == "FedAdapter") {
    const Tensor down = adapter.at("m.q.lora_B.weight"), bias = adapter.at("score.bias");
    adapter = {{"score.bias", bias}};
    for (const char* layer : {"h.0", "h.1"}) {
      const std::string network = std::string(layer) + ".adapter_mlp.";
      adapter.emplace(network + "down.weight", down);
      adapter.emplace(network + "up.weight", Tensor::FromFloats({2, 4}, down.values<float>()));
    }
  }
  if (method == "FedPepTAO") {
    const std::vector<float> values(16, 0.5F);
    adapter = {{"score.bias", adapter.at("score.bias")}, {"prompt_embeddings", Tensor::FromFloats({2, 8}, values)}};
    options.method["num_layers"] = 2;
  }
  const auto first = FirstModel(method, adapter, options);
  Require(first.ok(), "every method can begin", method);
  StateDict model = *first;
  for (uint32_t round = 1; round <= 2; ++round) {
    options.round = round;
    auto accepted = Accepted(method, model, state, options, &input);
    const auto made = RunRound(method, model, state, options, accepted);
    std::reverse(accepted.begin(), accepted.end());
    const auto turned = RunRound(method, model, state, options, accepted);
    Require(made.ok() == turned.ok(), "the order decides nothing", method);
    if (!made.ok()) {
      const Code code = made.status().code();
      Require(code == Code::kInvalidArgument || code == Code::kFailedPrecondition, "a round fails for a typed reason",
              method + ": " + made.status().message());
      return 0;
    }
    Require(BytesOf(*made) == BytesOf(*turned), "the order changes no bit", method);
    CheckModel(method, *made);
    model = made->model;
    state = made->state;
    options.round = round + 1;
    const auto next = MakeAggregator(method, model, options, state);
    Require(next.ok(), "the next round can begin", next.ok() ? method : method + ": " + next.status().message());
  }
  return 0;
}
