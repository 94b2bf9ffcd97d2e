// A model that is cut between a device and a server: the split step, through tensors that share nothing, is the
// unsplit one; for every architecture, cut, topology and kind of adapter.
#include <gtest/gtest.h>
#include <torch/types.h>

#include "common/random.h"
#include "model/config/cut.h"
#include "model/config/registry.h"
#include "peft/adapter/initial.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"
#include "tests/unit/peft/model_examples.h"

namespace heddle::peft {
namespace {

namespace fs = std::filesystem;
using model::BaseWeights;
using model::Cut;
using model::SplitTopology;

// The architecture of a committed model with four layers, of random weights; or a part of it.
std::shared_ptr<const BaseWeights> Deep(const std::string& folder, const model::ModelPart& part = {}) {
  auto base = std::make_shared<BaseWeights>();
  base->spec = *model::ReadModelConfig(fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / folder);
  base->spec.num_hidden_layers = 4;
  const StateDict weights = model::RandomWeights(base->spec, 3);
  base->spec.part = part;
  for (const auto& [name, tensor] : base->spec.WeightSpec()) {
    base->tensors.emplace(name, ToTorchTensor(weights.find(name)->second));
  }
  return base;
}

struct Outcome {
  double loss = 0;
  std::map<std::string, torch::Tensor> gradients;  // by the adapter's keys
};

void Collect(const Tuning& tuning, Outcome* out) {
  for (const TunedParameter& one : tuning.parameters()) out->gradients[one.key] = one.tensor.grad();
}

Outcome Unsplit(const std::shared_ptr<const BaseWeights>& base, const AdapterConfig& config, const StateDict& adapter,
                const Example& example, bool checkpoint) {
  model::Transformer network(base, model::ComputeOptions{.checkpoint_layers = checkpoint});
  const Tuning tuning = *Tuning::Inject(network, config, adapter);
  network->SeedDropout(5);
  network->train();
  const torch::Tensor loss = network->Loss(example.input, example.targets);
  loss.backward();
  Outcome out{loss.item<double>(), {}};
  Collect(tuning, &out);
  return out;
}

// The tensors of a part's slots.
Result<StateDict> PartOf(const model::ModelSpec& spec, const AdapterConfig& config, const StateDict& adapter) {
  HEDDLE_ASSIGN_OR_RETURN(const StateDictSpec slots, AdapterSpec(spec, config));
  StateDict out;
  for (const auto& [key, tensor] : slots) out.emplace(key, adapter.find(key)->second);
  return out;
}

// What goes over a wire: numbers alone.
torch::Tensor OverTheWire(const torch::Tensor& tensor) { return tensor.detach().clone(); }

class Half {
 public:
  Half(const std::shared_ptr<const BaseWeights>& part, const AdapterConfig& config, const StateDict& adapter,
       bool checkpoint)
      : network(part, model::ComputeOptions{.checkpoint_layers = checkpoint}) {
    auto tensors = PartOf(part->spec, config, adapter);
    if (tensors.ok()) tuning = *Tuning::Inject(network, config, *tensors);
    network->SeedDropout(5);
    network->train();
  }
  model::Transformer network;
  std::optional<Tuning> tuning;  // none where nothing of this part is tuned
};

Outcome Split(Half& device, Half& server, const Cut& cut, const Example& example) {
  Outcome out;
  const torch::Tensor front = device.network->Front(example.input);
  const torch::Tensor arrived = OverTheWire(front).requires_grad_(true);
  const model::ModelInput told{.mask = example.input.mask};
  const torch::Tensor body = server.network->Middle(arrived, told);
  torch::Tensor loss;
  if (cut.topology == SplitTopology::kLabelSharing) {
    loss = server.network->TailLoss(body, told, example.targets);
    loss.backward();
  } else {
    const torch::Tensor back = OverTheWire(body).requires_grad_(true);
    loss = device.network->TailLoss(back, told, example.targets);
    loss.backward();
    body.backward(OverTheWire(back.grad()));
  }
  // A front in which nothing is trained has no use for the gradient.
  if (front.requires_grad()) front.backward(OverTheWire(arrived.grad()));
  out.loss = loss.item<double>();
  for (const Half* half : {&device, &server}) {
    if (half->tuning) Collect(*half->tuning, &out);
  }
  return out;
}

AdapterConfig Config(TuningKind kind, const model::ModelSpec& spec) {
  AdapterConfig config;
  config.peft_type = std::string(PeftTypeOf(kind));
  config.base_model_name_or_path = "base";
  if (kind == TuningKind::kLora) {
    config.r = 3;
    config.lora_alpha = 6;
    config.lora_dropout = 0.25;
    config.init_lora_weights = "false";
    config.target_modules_regex = "all-linear";
  }
  if (kind == TuningKind::kFull && spec.TiedHead()) {
    for (int64_t i = 0; i < spec.num_hidden_layers; ++i) config.layers_to_transform.push_back(i);
  }
  return config;
}

class CutModel : public testing::TestWithParam<std::string> {};

TEST_P(CutModel, ASplitStepIsTheUnsplitOneBitForBit) {
  const auto whole = Deep(GetParam());
  const Example example = ExampleFor(whole->spec);
  StateDict weights;
  for (const auto& [name, tensor] : whole->tensors) weights.emplace(name, ToStateTensor(tensor));
  for (const TuningKind kind : {TuningKind::kLora, TuningKind::kFull, TuningKind::kBottleneck}) {
    const AdapterConfig config = Config(kind, whole->spec);
    const auto adapter = MakeInitialAdapter(whole->spec, config, weights, 7);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    for (const bool checkpoint : {false, true}) {
      const Outcome expected = Unsplit(whole, config, *adapter, example, checkpoint);
      for (const SplitTopology topology : {SplitTopology::kUShaped, SplitTopology::kLabelSharing}) {
        for (int64_t blocks = 0; blocks < 4; ++blocks) {
          SCOPED_TRACE(std::string(SplitTopologyName(topology)) + " after " + std::to_string(blocks) + ", kind " +
                       config.peft_type + (checkpoint ? ", checkpointed" : ""));
          const Cut cut{blocks, topology};
          Half device(Deep(GetParam(), *model::DevicePart(whole->spec, cut)), config, *adapter, checkpoint);
          Half server(Deep(GetParam(), *model::ServerPart(whole->spec, cut)), config, *adapter, checkpoint);
          const Outcome split = Split(device, server, cut, example);
          EXPECT_EQ(split.loss, expected.loss);
          ASSERT_EQ(split.gradients.size(), expected.gradients.size());
          for (const auto& [key, gradient] : expected.gradients) {
            const torch::Tensor found = split.gradients.at(key);
            ASSERT_EQ(found.defined(), gradient.defined()) << key;
            if (gradient.defined()) {
              EXPECT_TRUE(torch::equal(found, gradient)) << key;
            }
          }
        }
      }
    }
  }
}

TEST_P(CutModel, APartHasTheTensorsOfItsOwnAndNoOthers) {
  const fs::path folder = fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / GetParam();
  const auto whole = *BaseWeights::Load(folder);
  for (const SplitTopology topology : {SplitTopology::kUShaped, SplitTopology::kLabelSharing}) {
    for (int64_t blocks = 0; blocks < whole->spec.num_hidden_layers; ++blocks) {
      const Cut cut{blocks, topology};
      model::WeightOptions here, there;
      here.part = *model::DevicePart(whole->spec, cut);
      there.part = *model::ServerPart(whole->spec, cut);
      const auto device = *BaseWeights::Load(folder, here), server = *BaseWeights::Load(folder, there);
      size_t shared = 0;
      for (const auto& [name, tensor] : whole->tensors) {
        const bool on_device = device->tensors.contains(name), on_server = server->tensors.contains(name);
        EXPECT_TRUE(on_device || on_server) << name;
        if (on_device && on_server) {
          ++shared;
          EXPECT_EQ(name, whole->spec.token_embedding);
          EXPECT_TRUE(whole->spec.TiedHead() && topology == SplitTopology::kLabelSharing);
        }
        for (const auto& part : {device, server}) {
          const auto found = part->tensors.find(name);
          if (found != part->tensors.end()) {
            EXPECT_TRUE(torch::equal(found->second, tensor)) << name;
          }
        }
      }
      EXPECT_EQ(device->tensors.size() + server->tensors.size(), whole->tensors.size() + shared);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CutModel, testing::ValuesIn(ModelFolders()), NameOfFolder);

const char kLlama[] = "models/llama";

TEST(CutModelRefusals, ACutOutsideTheModelIsRefused) {
  const auto whole = Deep(kLlama);
  for (const int64_t blocks : {-1, 4, 5}) {
    const Cut cut{blocks, SplitTopology::kUShaped};
    EXPECT_EQ(model::DevicePart(whole->spec, cut).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(model::ServerPart(whole->spec, cut).status().code(), Code::kInvalidArgument);
  }
  model::WeightOptions options;
  options.part.end_layer = 3;  // of two
  const fs::path folder = fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / kLlama;
  EXPECT_EQ(BaseWeights::Load(folder, options).status().code(), Code::kInvalidArgument);
  EXPECT_NE(model::SplitTopologyFromName("u_shape").status().message().find("did you mean 'u_shaped'"),
            std::string::npos);
}

TEST(CutModelRefusals, AFolderWithThePartAloneIsEnoughForItAndNotForTheOther) {
  const fs::path folder = fs::path(HEDDLE_SOURCE_DIR) / "tests/data" / kLlama;
  const TempDir here;
  fs::copy(folder / "config.json", here.path() / "config.json");
  const auto spec = *model::ReadModelConfig(folder);
  const Cut cut{1, SplitTopology::kUShaped};
  model::WeightOptions device, server;
  device.part = *model::DevicePart(spec, cut);
  server.part = *model::ServerPart(spec, cut);
  StateDict tensors;
  const auto loaded = *BaseWeights::Load(folder, device);  // kept for the loop's life
  for (const auto& [name, tensor] : loaded->tensors) {
    tensors.emplace(name, ToStateTensor(tensor));
  }
  ASSERT_TRUE(WriteSafetensors(here.path() / "model.safetensors", tensors).ok());
  EXPECT_EQ((*BaseWeights::Load(here.path(), device))->tensors.size(), tensors.size());
  const auto other = BaseWeights::Load(here.path(), server);
  ASSERT_EQ(other.status().code(), Code::kInvalidArgument);
  EXPECT_NE(other.status().message().find("the weights lack model.layers.1"), std::string::npos) << other.status();
}

TEST(CutModelRefusals, WhatCannotBeTrainedOnOneSideIsRefused) {
  auto spec = Deep(kLlama)->spec;
  spec.tie_word_embeddings = true;
  AdapterConfig full = Config(TuningKind::kFull, Deep(kLlama)->spec);
  full.layers_to_transform.clear();
  spec.part = *model::DevicePart(spec, {2, SplitTopology::kUShaped});
  EXPECT_TRUE(ListSlots(spec, full).ok());
  for (const auto part : {&model::DevicePart, &model::ServerPart}) {
    spec.part = *part(spec, {2, SplitTopology::kLabelSharing});
    const auto slots = ListSlots(spec, full);
    ASSERT_EQ(slots.status().code(), Code::kInvalidArgument);
    EXPECT_NE(slots.status().message().find("on both sides of the cut"), std::string::npos);
  }
  AdapterConfig prompt = Config(TuningKind::kPromptTuning, spec);
  prompt.num_virtual_tokens = 3;
  EXPECT_EQ(ListSlots(spec, prompt).status().code(), Code::kUnimplemented);
}

TEST(CutModelRefusals, APieceThatIsNotHereIsRefusedAndSoIsWhatCannotCrossTheCut) {
  const Cut cut{2, SplitTopology::kUShaped};
  const auto spec = Deep(kLlama)->spec;
  model::Transformer device(Deep(kLlama, *model::DevicePart(spec, cut)));
  model::Transformer server(Deep(kLlama, *model::ServerPart(spec, cut)));
  const Example example = ExampleFor(spec);
  EXPECT_THROW(device->forward(example.input), c10::Error);
  EXPECT_THROW(server->Loss(example.input, example.targets), c10::Error);
  EXPECT_THROW(server->Front(example.input), c10::Error);
  const torch::Tensor x = device->Front(example.input);
  EXPECT_THROW(device->Middle(x, {}), c10::Error);
  EXPECT_THROW(server->TailLoss(x, {}, example.targets), c10::Error);
  EXPECT_THROW(server->Middle(x.slice(2, 1), {}), c10::Error);
  EXPECT_THROW(server->Middle(x.to(at::kDouble), {}), c10::Error);
  EXPECT_THROW(server->Middle(x.select(0, 0), {}), c10::Error);
  EXPECT_THROW(server->Middle(x, {.mask = example.input.mask.slice(1, 1)}), c10::Error);
}

}  // namespace
}  // namespace heddle::peft
