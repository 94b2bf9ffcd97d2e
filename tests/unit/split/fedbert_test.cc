// FedBERT (Tian et al., 2022): an encoder is pre-trained on masked words with embeddings and head on devices and all
// blocks on the server; in its sequential form one device after the other trains against the server's one body, and the
// devices' parts are averaged at the end of a round.
#include <gtest/gtest.h>

#include <cmath>

#include "common/random.h"
#include "peft/adapter/initial.h"
#include "tests/unit/model/tiny_encoder.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

class FedBert : public testing::Test {
 protected:
  FedBert() { model::WriteMaskedFolder(base_ / "bert"); }

  Settings Sequential(const Settings& more) const {
    const Settings settings = {{"base_model", (base_ / "bert").string()},
                               {"split.cut", "0"},
                               {"split.server", "shared"},
                               {"split.max_sessions", "1"},
                               {"device.peft_type", "FULL"},
                               {"server.peft_type", "FULL"},
                               {"device.max_grad_norm", "0"},
                               {"server.max_grad_norm", "0"}};
    return With(settings, more);
  }
  // Plain steps keep nothing between devices, so that a round can be computed by hand.
  Settings PlainSteps(const char* devices) const {
    return Sequential({{"devices_per_round", devices},
                       {"rounds", "1"},
                       {"device.optimizer", "SGD"},
                       {"server.optimizer", "SGD"},
                       {"device.learning_rate", "0.1"},
                       {"server.learning_rate", "0.1"}});
  }

  TempDir base_;
};

// Where the device's steps of the first round lead on the whole, uncut model, in plain LibTorch.
StateDict UncutSteps(const SplitWorld& world, const std::string& device, const StateDict& start) {
  const protocol::SplitPlan& plan = world.plan;
  client::TaskResources resources;
  const auto base = *resources.GetBase(plan.base_model);
  model::Transformer network(base.weights);
  const peft::Tuning tuning = *peft::Tuning::Inject(network, *peft::SideConfig(plan.server), start);
  network->train();
  client::TaskInput input;
  input.train.batch_size = plan.batch_size;
  input.train.sequence_length = plan.sequence_length;
  input.data_path = world.folder() / (device + ".txt");
  input.seed = DeriveSeed(DeriveSeed(plan.seed, "split session", "1/" + device), "split data", "");
  const auto batches = *client::TrainingBatches(input, base, resources);
  for (uint32_t step = 0; step < plan.local_steps; ++step) {
    const auto batch = **batches->Next();
    network->Loss(batch.input, batch.targets).backward();
    const torch::NoGradGuard no_grad;
    for (const auto& one : tuning.parameters()) {
      one.tensor.sub_(one.tensor.grad(), plan.server.learning_rate);
      one.tensor.mutable_grad() = torch::Tensor();
    }
  }
  return tuning.Extract();
}

StateDict StartOf(const SplitWorld& world) {
  client::TaskResources resources;
  const auto base = *resources.GetBase(world.plan.base_model);
  StateDict weights;
  for (const auto& [name, tensor] : base.weights->tensors) weights.emplace(name, peft::ToStateTensor(tensor));
  return *peft::MakeInitialAdapter(base.weights->spec, *peft::SideConfig(world.plan.server), weights, world.plan.seed);
}

TEST_F(FedBert, OneBodyLearnsFromDeviceAfterDeviceAndTheirPartsAreAveraged) {
  SplitWorld world(PlainSteps("3"));
  size_t most = 0;
  world.OneAfterTheOther([&](const std::string&) { most = std::max(most, world.server->sessions()); });
  EXPECT_EQ(most, 1U) << "one device at a time";
  const StateDict outcome = world.Outcome(), device_part = world.server->device_adapter();
  const StateDict start = StartOf(world);
  ASSERT_EQ(SpecOf(outcome), SpecOf(start));
  ASSERT_TRUE(device_part.contains("base_model.model.bert.embeddings.word_embeddings.weight"));
  ASSERT_TRUE(device_part.contains("base_model.model.cls.predictions.bias"));
  // Each device begins with its part as it was and the body as the device before it left it.
  StateDict body = start;
  std::map<std::string, std::vector<double>> sums;
  for (const std::string& name : world.Names()) {
    StateDict model = start;
    for (auto& [key, tensor] : model) {
      if (!device_part.contains(key)) tensor = body.find(key)->second;
    }
    body = UncutSteps(world, name, model);
    for (const auto& [key, tensor] : body) {
      std::vector<double>& sum = sums[key];
      sum.resize(tensor.values<float>().size());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += tensor.values<float>()[i] / 3.0;
    }
  }
  double moved = 0;
  for (const auto& [key, tensor] : outcome) {
    const auto got = tensor.values<float>(), last = body.find(key)->second.values<float>(),
               first = start.find(key)->second.values<float>();
    for (size_t i = 0; i < got.size(); ++i) {
      const double expected = device_part.contains(key) ? sums[key][i] : double{last[i]};
      ASSERT_NEAR(got[i], expected, 2e-6) << key << " " << i;
      moved = std::max(moved, std::abs(double{got[i]} - first[i]));
    }
  }
  EXPECT_GT(moved, 1e-3);
}

TEST_F(FedBert, DevicesThatComeAtOnceWaitForTheirTurn) {
  SplitWorld world(PlainSteps("3"));
  size_t most = 0;
  world.Interleaved([&](const std::string&) { most = std::max(most, world.server->sessions()); });
  EXPECT_EQ(most, 1U);
  EXPECT_TRUE(world.server->done());
}

TEST_F(FedBert, MaskedWordsAreLearnedAcrossTheCut) {
  SplitWorld world(Sequential({{"rounds", "4"},
                               {"train.local_steps", "12"},
                               {"train.batch_size", "8"},
                               {"device.learning_rate", "0.01"},
                               {"server.learning_rate", "0.01"}}));
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the old river pulls the blue wool over roofs.\n\n";
  for (const std::string& name : world.Names()) {
    model::Require(WriteFileAtomically(world.folder() / (name + ".txt"), text));
    world.AddDevice(name);
  }
  std::map<std::string, double> first;
  world.OneAfterTheOther([&](const std::string& name) {
    const auto& stats = world.devices.at(name)->stats();
    if (stats.steps > 0) first.emplace(name, stats.first_loss);
  });
  EXPECT_TRUE(world.server->done());
  for (const std::string& name : world.Names()) {
    EXPECT_GT(first.at(name), 2.5) << "about the logarithm of the vocabulary's 40 words";
    EXPECT_LT(world.devices.at(name)->stats().last_loss, 0.5 * first.at(name));
  }
}

}  // namespace
}  // namespace heddle
