// Values at some places of the weights (heddle.dense) beside an adapter: against the same numbers in whole matrices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "common/random.h"
#include "common/sparse_delta.h"
#include "model/transformer/sparse_product.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/model/random_tensor.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

const model::ComputeOptions kDouble{.type = at::kDouble};
const std::string kQuery = "model.layers.0.self_attn.q_proj", kDown = "model.layers.1.mlp.down_proj";

std::shared_ptr<const model::BaseWeights> Base(const StateDict& weights) {
  auto base = std::make_shared<model::BaseWeights>();
  base->spec = model::TinyConfig();
  for (const auto& [name, tensor] : weights) base->tensors.emplace(name, ToTorchTensor(tensor));
  return base;
}

class Sparse : public testing::Test {
 protected:
  Sparse() {
    config_.target_modules = {"q_proj", "down_proj"};
    adapter_ = *MakeInitialAdapter(model::TinyConfig(), config_, {}, 3);
    for (auto& [key, tensor] : adapter_) {
      if (!key.ends_with("lora_B.weight")) continue;
      std::vector<float> values(static_cast<size_t>(tensor.numel()), 0.02F);
      tensor = Tensor::FromFloats(tensor.shape(), values);
    }
    adapter_.emplace(kDenseSeedName, DenseSeedTensor(5));
    for (const std::string& path : {kQuery, kDown}) {
      std::vector<float> values(99);
      const PhiloxStream random(DeriveSeed(1, "values", path));
      for (size_t i = 0; i < values.size(); ++i) values[i] = random.UniformAt(i) - 0.5F;
      adapter_.emplace(std::string(kDensePrefix) + path, Tensor::FromFloats({99}, values));
    }
    // The same in the weights.
    StateDict plus = weights_;
    plain_ = adapter_;
    for (const SparseDelta& delta : Deltas()) {
      Tensor& weight = plus.at(delta.path + ".weight");
      std::vector<float> values(weight.values<float>().begin(), weight.values<float>().end());
      for (size_t i = 0; i < delta.places.size(); ++i) values[delta.places[i]] += delta.values.values<float>()[i];
      weight = Tensor::FromFloats(weight.shape(), values);
      plain_.erase(std::string(kDensePrefix) + delta.path);
    }
    plus_ = Base(plus);
  }

  std::vector<SparseDelta> Deltas() const {
    auto found = FindSparseDeltas(adapter_, [](std::string_view path) -> std::optional<std::pair<int64_t, int64_t>> {
      for (const model::LinearSpec& linear : model::TinyConfig().LinearModules()) {
        if (linear.path == path) return std::pair(linear.out, linear.in);
      }
      return std::nullopt;
    });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *std::move(found) : std::vector<SparseDelta>{};
  }

  static model::ModelInput Input() {
    torch::Tensor ids = torch::empty({3, 11}, torch::kInt64);
    for (int64_t i = 0; i < ids.numel(); ++i) ids.data_ptr<int64_t>()[i] = i * 37 % 320;
    return {.ids = ids};
  }
  static torch::Tensor Targets() { return Input().ids.roll(1, 1); }

  model::Transformer Injected(const std::shared_ptr<const model::BaseWeights>& base, const StateDict& tensors,
                              const model::ComputeOptions& compute, Use use = Use::kTrain) const {
    model::Transformer model(base, compute);
    const auto tuning = Tuning::Inject(model, config_, tensors, use);
    EXPECT_TRUE(tuning.ok()) << tuning.status();
    return model;
  }

  AdapterConfig config_;
  StateDict adapter_, plain_;
  const StateDict weights_ = model::RandomWeights(model::TinyConfig(), 1);
  const std::shared_ptr<const model::BaseWeights> base_ = Base(weights_);
  std::shared_ptr<const model::BaseWeights> plus_;
};

TEST_F(Sparse, ComputeWhatTheChangedWeightsCompute) {
  for (const bool dora : {false, true}) {
    config_.use_dora = dora;
    if (dora) {
      const std::vector<TargetModule> targets = *FindTargets(model::TinyConfig(), config_);
      for (const TargetModule& target : targets) {
        const std::string key = "base_model.model." + target.path + ".lora_magnitude_vector";
        const Tensor ones = Tensor::FromFloats({target.out_features}, std::vector<float>(target.out_features, 1.5F));
        adapter_.emplace(key, ones);
        plain_.emplace(key, ones);
      }
    }
    for (const Use use : {Use::kTrain, Use::kFrozen}) {
      auto sparse = Injected(base_, adapter_, kDouble, use), whole = Injected(plus_, plain_, kDouble, use);
      const torch::NoGradGuard no_grad;
      const torch::Tensor expected = whole->forward(Input());
      EXPECT_LT((sparse->forward(Input()) - expected).abs().max().item<double>(), 1e-6) << dora;
      EXPECT_GT((Injected(base_, plain_, kDouble)->forward(Input()) - expected).abs().max().item<double>(), 1e-2);
    }
  }
  const torch::NoGradGuard no_grad;
  auto narrow = Injected(base_, adapter_, {.type = at::kBFloat16});
  EXPECT_TRUE(narrow->forward(Input()).isfinite().all().item<bool>());
}

TEST_F(Sparse, HaveTheGradientOfTheWholeWeightsAtTheirPlaces) {
  auto sparse = Injected(base_, adapter_, kDouble), whole = Injected(plus_, plain_, kDouble);
  for (auto& [path, linear] : whole->LinearModules()) {
    if (path == kQuery || path == kDown) linear->weight.requires_grad_(true);
  }
  sparse->Loss(Input(), Targets()).backward();
  whole->Loss(Input(), Targets()).backward();
  const auto layers = sparse->LinearModules(), wholes = whole->LinearModules();
  for (const SparseDelta& delta : Deltas()) {
    const torch::Tensor gradient = layers.at(delta.path)->sparse.at(0).values.grad();
    const torch::Tensor all = wholes.at(delta.path)->weight.grad().view({-1});
    ASSERT_TRUE(gradient.defined());
    double largest = 0;
    for (size_t i = 0; i < delta.places.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      EXPECT_NEAR(gradient[at].item<double>(), all[delta.places[i]].item<double>(), 1e-8) << delta.path << " " << i;
      largest = std::max(largest, std::abs(gradient[at].item<double>()));
    }
    EXPECT_GT(largest, 1e-5);
    // What passes through them reaches the layers below as well.
    EXPECT_TRUE(torch::allclose(layers.at(kQuery)->lora_A.grad(), wholes.at(kQuery)->lora_A.grad(), 1e-5, 1e-8));
  }
}

TEST_F(Sparse, ProductsAreTheSameBitsForAnyNumberOfThreads) {
  const SparseDelta delta = Deltas().front();
  const auto products = [&](int threads) {
    at::set_num_threads(threads);
    model::SparseWeight weight;
    weight.values = ToTorchTensor(delta.values).requires_grad_(true);
    weight.places = torch::tensor(std::vector<int64_t>(delta.places.begin(), delta.places.end()), torch::kInt64);
    const torch::Tensor rows = model::RandomTensor({2001, delta.in}, 3).requires_grad_(true);
    const torch::Tensor y = model::SparseProduct(rows, weight, delta.out);
    y.square().sum().backward();
    at::set_num_threads(1);
    return std::vector<torch::Tensor>{y, rows.grad(), weight.values.grad()};
  };
  const auto one = products(1), three = products(3);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], three[i])) << i;
}

TEST_F(Sparse, MergeIntoTheWeightsAndGoWithTheAdapter) {
  model::Transformer model(base_, kDouble);
  const torch::NoGradGuard no_grad;
  const torch::Tensor before = model->forward(Input());
  auto tuning = Tuning::Inject(model, config_, adapter_, Use::kTrain);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  EXPECT_EQ(Tuning::Inject(model, config_, adapter_, Use::kTrain).status().code(), Code::kFailedPrecondition);
  const torch::Tensor adapted = model->forward(Input());
  ASSERT_TRUE(Merge(model).ok());
  EXPECT_LT((model->forward(Input()) - adapted).abs().max().item<double>(), 1e-5);
  Unmerge(model);
  EXPECT_TRUE(torch::equal(model->forward(Input()), adapted));
  for (const auto& [key, tensor] : tuning->Extract()) EXPECT_FALSE(key.starts_with("heddle.")) << key;
  EXPECT_EQ(tuning->parameters().size(), tuning->Extract().size() + 2);
  EXPECT_EQ(tuning->parameters().back().key, "heddle.dense." + kDown);
  ASSERT_TRUE(tuning->Remove().ok());
  EXPECT_TRUE(torch::equal(model->forward(Input()), before));
  const auto merged = MergedWeights(base_, config_, adapter_), expected = MergedWeights(plus_, config_, plain_);
  ASSERT_TRUE(merged.ok() && expected.ok());
  for (const auto& [name, tensor] : *merged) {
    for (size_t i = 0; i < tensor.values<float>().size(); ++i) {
      ASSERT_NEAR(tensor.values<float>()[i], expected->at(name).values<float>()[i], 2e-7) << name;
    }
  }
}

TEST_F(Sparse, OfALayerThatIsNotThereAreRefused) {
  model::Transformer model(base_);
  const std::string key = "heddle.dense.model.layers.9.mlp.down_proj";
  adapter_.emplace(key, Tensor::FromFloats({1}, std::vector<float>{1}));
  const auto refused = Tuning::Inject(model, config_, adapter_);
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), testing::HasSubstr("model.layers.9"));
}

}  // namespace
}  // namespace heddle::peft
