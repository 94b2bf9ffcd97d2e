// The whole model, on weights made in code, against a float64 forward in plain loops; and what must not change its
// numbers: the batch, the threads, other models on the same weights.
#include "model/transformer/transformer.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <thread>

#include "common/random.h"
#include "tests/unit/model/difference.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

std::shared_ptr<const BaseWeights> MakeBase(const ModelSpec& config, uint64_t seed = 1) {
  auto base = std::make_shared<BaseWeights>();
  base->spec = config;
  for (const auto& [name, tensor] : RandomWeights(config, seed, 0.2F)) {
    base->tensors.emplace(
        name, torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), torch::kFloat).clone());
  }
  return base;
}

torch::Tensor Ids(int64_t batch, int64_t length, uint64_t seed = 3) {
  torch::Tensor ids = torch::empty({batch, length}, torch::kLong);
  PhiloxStream random(seed);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data_ptr<int64_t>()[i] = random.NextBelow(320);
  return ids;
}

using Row = std::vector<double>;

// One sequence through the formulas of the papers, one number after another.
class PlainLlama {
 public:
  explicit PlainLlama(const BaseWeights& base) : base_(base), c_(base.spec) {}

  // Logits of each position.
  std::vector<Row> Forward(const std::vector<int64_t>& ids) const {
    std::vector<Row> x;
    for (const int64_t id : ids) x.push_back(RowOf("model.embed_tokens.weight", id));
    for (int64_t i = 0; i < c_.num_hidden_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      const auto mixed = Attention(layer + "self_attn.", Norm(layer + "input_layernorm", x));
      for (size_t t = 0; t < x.size(); ++t) Add(&x[t], mixed[t]);
      const auto h = Norm(layer + "post_attention_layernorm", x);
      for (size_t t = 0; t < x.size(); ++t) {
        Row gate = Linear(layer + "mlp.gate_proj", h[t]);
        const Row up = Linear(layer + "mlp.up_proj", h[t]);
        for (size_t j = 0; j < gate.size(); ++j) gate[j] = gate[j] / (1 + std::exp(-gate[j])) * up[j];
        Add(&x[t], Linear(layer + "mlp.down_proj", gate));
      }
    }
    x = Norm("model.norm", x);
    std::vector<Row> logits;
    for (const Row& row : x) {
      logits.push_back(Linear(c_.tie_word_embeddings ? "model.embed_tokens" : "lm_head", row));
    }
    return logits;
  }

 private:
  static void Add(Row* to, const Row& from) {
    for (size_t i = 0; i < from.size(); ++i) (*to)[i] += from[i];
  }
  Row RowOf(const std::string& name, int64_t index) const {
    const torch::Tensor row = base_.tensors.at(name)[index];
    return {row.data_ptr<float>(), row.data_ptr<float>() + row.numel()};
  }
  Row Linear(const std::string& path, const Row& x) const {
    const torch::Tensor& w = base_.tensors.at(path + ".weight");
    const auto bias = base_.tensors.find(path + ".bias");
    Row y(static_cast<size_t>(w.size(0)));
    for (size_t o = 0; o < y.size(); ++o) {
      const float* row = w.data_ptr<float>() + o * x.size();
      if (bias != base_.tensors.end()) y[o] = bias->second.data_ptr<float>()[o];
      for (size_t i = 0; i < x.size(); ++i) y[o] += static_cast<double>(row[i]) * x[i];
    }
    return y;
  }
  std::vector<Row> Norm(const std::string& path, std::vector<Row> x) const {
    const float* weight = base_.tensors.at(path + ".weight").data_ptr<float>();
    for (Row& row : x) {
      double squares = 0;
      for (const double v : row) squares += v * v;
      const double root = std::sqrt(squares / static_cast<double>(row.size()) + c_.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] = row[i] / root * static_cast<double>(weight[i]);
    }
    return x;
  }
  void Rotate(Row* row, size_t position) const {
    const auto dim = static_cast<size_t>(c_.head_dim);
    for (size_t head = 0; head < row->size(); head += dim) {
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(c_.rotary.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        double &a = (*row)[head + i], &b = (*row)[head + i + dim / 2];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
    }
  }
  std::vector<Row> Attention(const std::string& path, const std::vector<Row>& x) const {
    std::vector<Row> q, k, v, out;
    for (size_t t = 0; t < x.size(); ++t) {
      q.push_back(Linear(path + "q_proj", x[t]));
      k.push_back(Linear(path + "k_proj", x[t]));
      v.push_back(Linear(path + "v_proj", x[t]));
      Rotate(&q[t], t);
      Rotate(&k[t], t);
    }
    const auto dim = static_cast<size_t>(c_.head_dim), heads = static_cast<size_t>(c_.num_attention_heads);
    const size_t group = heads / static_cast<size_t>(c_.num_key_value_heads);
    for (size_t t = 0; t < x.size(); ++t) {
      Row mixed(heads * dim);
      for (size_t h = 0; h < heads; ++h) {
        Row weights(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < dim; ++i) dot += q[t][h * dim + i] * k[s][h / group * dim + i];
          sum += weights[s] = std::exp(dot / std::sqrt(static_cast<double>(dim)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < dim; ++i) mixed[h * dim + i] += weights[s] / sum * v[s][h / group * dim + i];
        }
      }
      out.push_back(Linear(path + "o_proj", mixed));
    }
    return out;
  }

  const BaseWeights& base_;
  ModelSpec c_;
};

std::vector<ModelSpec> Variants() {
  ModelSpec tied = TinyConfig(), biased = TinyConfig(), wide = TinyConfig();
  biased.tie_word_embeddings = false;
  biased.qkv_bias = biased.attention_out_bias = biased.mlp_bias = true;
  biased.num_key_value_heads = 4;
  biased.rotary.theta = 500.0;
  wide.head_dim = 16;  // heads wider together than the hidden size
  wide.num_key_value_heads = 1;
  wide.norm_eps = 0.01;
  return {tied, biased, wide};
}

TEST(Llama, LogitsAndLossMatchPlainFloat64) {
  for (const ModelSpec& config : Variants()) {
    const auto base = MakeBase(config);
    Transformer llama(base);
    torch::NoGradGuard no_grad;
    const torch::Tensor ids = Ids(1, 20), targets = ids.roll(-1, 1);
    const std::vector<int64_t> list(ids.data_ptr<int64_t>(), ids.data_ptr<int64_t>() + 20);
    const auto expected = PlainLlama(*base).Forward(list);
    const torch::Tensor logits = llama->forward(ids)[0];
    double loss = 0;
    for (size_t t = 0; t < expected.size(); ++t) {
      double sum = 0;
      for (size_t j = 0; j < expected[t].size(); ++j) {
        ASSERT_NEAR(logits[static_cast<int64_t>(t)][static_cast<int64_t>(j)].item<double>(), expected[t][j], 2e-4);
        sum += std::exp(expected[t][j]);
      }
      loss += std::log(sum) - expected[t][static_cast<size_t>(targets[0][static_cast<int64_t>(t)].item<int64_t>())];
    }
    EXPECT_NEAR(llama->Loss(ids, targets).item<double>(), loss / 20, 1e-4);
  }
}

TEST(Llama, GradientsOfATrainableModelMatchCentralDifferences) {
  for (const ModelSpec& config : Variants()) {
    Transformer llama(config, 5);
    const torch::Tensor ids = Ids(2, 9), targets = ids.roll(-1, 1);
    {
      torch::NoGradGuard no_grad;  // larger than the initial weights, so that gradients are too
      for (auto& p : llama->parameters()) {
        if (p.dim() > 1) p.mul_(8);
      }
    }
    llama->Loss(ids, targets).backward();
    torch::NoGradGuard no_grad;
    for (auto& item : llama->named_parameters()) {
      torch::Tensor parameter = item.value();
      // Along the gradient itself the slope is its norm.
      const double norm = parameter.grad().norm().item<double>();
      ASSERT_GT(norm, 0) << item.key();
      const torch::Tensor direction = parameter.grad() / norm, start = parameter.clone();
      const auto loss_at = [&](double step) {
        parameter.copy_(start + direction * step);
        return llama->Loss(ids, targets).item<double>();
      };
      const double h = 0.01;
      const double slope = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
      parameter.copy_(start);
      EXPECT_NEAR(slope, norm, 3e-4 + 0.01 * norm) << item.key();
    }
  }
}

TEST(Llama, ARowOfABatchGivesWhatItGivesAlone) {
  Transformer llama(MakeBase(TinyConfig()));
  torch::NoGradGuard no_grad;
  const torch::Tensor ids = Ids(5, 16);
  const torch::Tensor together = llama->forward(ids);
  for (int64_t row = 0; row < 5; ++row) {
    EXPECT_LT(MaxDifference(together[row], llama->forward(ids.slice(0, row, row + 1))[0]), 1e-5);
  }
}

TEST(Llama, ALongerSequenceDoesNotChangeItsBeginning) {
  Transformer llama(MakeBase(TinyConfig()));
  torch::NoGradGuard no_grad;
  const torch::Tensor ids = Ids(1, 64);
  const torch::Tensor whole = llama->forward(ids);
  for (const int64_t length : {1, 7, 63}) {
    EXPECT_LT(MaxDifference(whole.slice(1, 0, length), llama->forward(ids.slice(1, 0, length))), 1e-5);
  }
}

TEST(Llama, ThreadsChangeNothingButTheTime) {
  const int before = at::get_num_threads();
  Transformer llama(MakeBase(TinyConfig()));
  const torch::Tensor ids = Ids(4, 32), targets = ids.roll(-1, 1);
  torch::NoGradGuard no_grad;
  at::set_num_threads(1);
  const torch::Tensor one = llama->forward(ids);
  const double loss = llama->Loss(ids, targets).item<double>();
  at::set_num_threads(2);
  EXPECT_LT(MaxDifference(llama->forward(ids), one), 1e-5);
  EXPECT_NEAR(llama->Loss(ids, targets).item<double>(), loss, 1e-6);
  at::set_num_threads(before);
}

TEST(Llama, ModelsOnSharedWeightsWorkSideBySide) {
  const auto base = MakeBase(TinyConfig());
  const torch::Tensor ids = Ids(2, 24);
  torch::Tensor expected;
  {
    torch::NoGradGuard no_grad;
    expected = Transformer(base)->forward(ids);
  }
  std::vector<torch::Tensor> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) {
      threads.emplace_back([&] {
        at::set_num_threads(1);
        torch::NoGradGuard no_grad;
        result = Transformer(base)->forward(ids);
      });
    }
  }
  for (const auto& result : results) EXPECT_LT(MaxDifference(result, expected), 1e-6);
}

TEST(Llama, AFrozenModelSharesTheBaseInsteadOfCopyingIt) {
  const auto base = MakeBase(TinyConfig());
  Transformer a(base), b(base);
  for (const auto& item : a->named_parameters()) {
    const torch::Tensor& weight = base->tensors.at(item.key());
    EXPECT_EQ(item.value().data_ptr(), weight.data_ptr()) << item.key();
    EXPECT_EQ(b->named_parameters()[item.key()].data_ptr(), weight.data_ptr());
    EXPECT_FALSE(item.value().requires_grad());
  }
  EXPECT_EQ(a->named_parameters().size(), base->spec.WeightSpec().size());
}

TEST(Llama, ParametersHaveHuggingFacesNamesAndInitialWeightsTheirSeed) {
  for (const ModelSpec& config : Variants()) {
    Transformer a(config, 1), b(config, 1), c(config, 2);
    const StateDictSpec spec = config.WeightSpec();
    EXPECT_EQ(a->named_parameters().size(), spec.size());
    for (const auto& item : a->named_parameters()) {
      ASSERT_TRUE(spec.contains(item.key())) << item.key();
      const torch::Tensor& p = item.value();
      EXPECT_EQ(Shape(p.sizes().begin(), p.sizes().end()), spec.at(item.key()).shape) << item.key();
      EXPECT_TRUE(torch::equal(p, b->named_parameters()[item.key()])) << item.key();
      if (p.dim() > 1) {
        EXPECT_FALSE(torch::equal(p, c->named_parameters()[item.key()])) << item.key();
        EXPECT_NEAR(p.std().item<double>(), 0.02, 0.004) << item.key();
      }
    }
  }
}

TEST(Llama, ImpossibleInputsAreExceptions) {
  Transformer llama(MakeBase(TinyConfig()));
  torch::NoGradGuard no_grad;
  EXPECT_THROW(llama->forward(Ids(1, 65)), c10::Error);  // 64 positions
  EXPECT_THROW(llama->forward(torch::zeros({1, 0}, torch::kLong)), c10::Error);
  EXPECT_THROW(llama->forward(torch::zeros({4}, torch::kLong)), c10::Error);
  EXPECT_THROW(llama->forward(torch::zeros({1, 4})), c10::Error);
  EXPECT_ANY_THROW(llama->forward(torch::full({1, 4}, 320, torch::kLong)));  // outside the vocabulary
  EXPECT_ANY_THROW(llama->forward(torch::full({1, 4}, -1, torch::kLong)));
  EXPECT_THROW(llama->Loss(Ids(1, 4), Ids(1, 5)), c10::Error);
  EXPECT_THROW(llama->Loss(Ids(1, 4), torch::full({1, 4}, 320, torch::kLong)), c10::Error);
}

TEST(Llama, IgnoredTargetsDoNotCount) {
  Transformer llama(MakeBase(TinyConfig()));
  torch::NoGradGuard no_grad;
  const torch::Tensor ids = Ids(1, 12);
  torch::Tensor targets = ids.roll(-1, 1);
  targets.slice(1, 6, 12).fill_(-100);
  const double half = llama->Loss(ids, targets).item<double>();
  EXPECT_NEAR(half, llama->Loss(ids.slice(1, 0, 6), targets.slice(1, 0, 6)).item<double>(), 1e-5);
}

}  // namespace
}  // namespace heddle::model
