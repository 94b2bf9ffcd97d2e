// Adapters before the first step: what is drawn, what is taken from the base, and what a fresh one must not change.
#include "peft/adapter/initial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/safetensors.h"
#include "peft/adapter/adapter.h"
#include "peft/adapter/principal.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

using ::testing::HasSubstr;

AdapterConfig Of(TuningKind kind, std::vector<std::string> targets = {}) {
  AdapterConfig config;
  config.peft_type = PeftTypeOf(kind);
  config.r = 4;
  config.lora_alpha = 6;
  config.num_virtual_tokens = 5;
  config.target_modules = std::move(targets);
  return config;
}

StateDict Make(const AdapterConfig& config, uint64_t seed = 1) {
  const model::ModelSpec spec = model::TinyConfig();
  auto made = MakeInitialAdapter(spec, config, model::RandomWeights(spec, 1), seed);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : StateDict();
}

TEST(InitialTensors, OfLoraAreThoseThatTheyHaveAlwaysBeen) {
  const model::ModelSpec spec = model::TinyConfig();
  const AdapterConfig config = Of(TuningKind::kLora, {"q_proj", "down_proj"});
  const auto before = MakeInitialAdapter(*FindTargets(spec, config), config, 7);
  EXPECT_EQ(SerializeSafetensors(Make(config, 7)), SerializeSafetensors(before));
  EXPECT_EQ(SpecOf(before), *AdapterSpec(spec, config));
}

TEST(InitialTensors, DependOnTheSeedAndTheKeyOnly) {
  for (const TuningKind kind : {TuningKind::kLora, TuningKind::kPromptTuning, TuningKind::kPrefixTuning,
                                TuningKind::kPTuning, TuningKind::kBottleneck}) {
    AdapterConfig config = Of(kind, {"q_proj"});
    const std::string first = SerializeSafetensors(Make(config));
    EXPECT_EQ(SerializeSafetensors(Make(config)), first) << PeftTypeOf(kind);
    EXPECT_NE(SerializeSafetensors(Make(config, 2)), first) << PeftTypeOf(kind);
  }
}

TEST(InitialTensors, OfDoraAreTheNormsOfTheRows) {
  AdapterConfig config = Of(TuningKind::kLora, {"down_proj"});
  config.use_dora = true;
  const StateDict weights = model::RandomWeights(model::TinyConfig(), 1);
  const auto w = weights.at("model.layers.1.mlp.down_proj.weight").values<float>();
  const StateDict adapter = Make(config);
  const auto m = adapter.at("base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector").values<float>();
  ASSERT_EQ(m.size(), 32U);
  for (size_t row = 0; row < 32; ++row) {
    double sum = 0;
    for (size_t i = 0; i < 48; ++i) sum += double{w[row * 48 + i]} * double{w[row * 48 + i]};
    EXPECT_NEAR(double{m[row]}, std::sqrt(sum), 1e-6);
  }
}

TEST(InitialTensors, OfNormalDrawsHaveTheirDeviation) {
  AdapterConfig gaussian = Of(TuningKind::kLora, {"q_proj", "up_proj"});
  gaussian.init_lora_weights = "gaussian";
  AdapterConfig prefix = Of(TuningKind::kPrefixTuning);
  prefix.num_virtual_tokens = 40;
  for (const auto& [config, deviation] : {std::pair{gaussian, 0.25}, {prefix, 0.02}}) {
    double sum = 0, squares = 0, count = 0;
    for (const auto& [key, tensor] : Make(config)) {
      if (key.ends_with("lora_B.weight")) continue;
      for (const float x : tensor.values<float>()) {
        sum += double{x};
        squares += double{x} * double{x};
        ++count;
      }
    }
    EXPECT_NEAR(std::sqrt(squares / count), deviation, 0.1 * deviation);
    EXPECT_NEAR(sum / count, 0, 0.1 * deviation);
  }
}

TEST(InitialTensors, OfSampledWordsAreRowsOfTheEmbedding) {
  AdapterConfig config = Of(TuningKind::kPromptTuning);
  config.prompt_tuning_init = "SAMPLE_VOCAB";
  const StateDict weights = model::RandomWeights(model::TinyConfig(), 1);
  const auto table = weights.at("model.embed_tokens.weight").values<float>();
  const auto prompt_dict = Make(config);
  const auto prompt = prompt_dict.at("prompt_embeddings").values<float>();
  for (size_t token = 0; token < 5; ++token) {
    bool found = false;
    for (size_t word = 0; word < 320 && !found; ++word) {
      found = std::equal(prompt.begin() + static_cast<std::ptrdiff_t>(token * 32),
                         prompt.begin() + static_cast<std::ptrdiff_t>(token * 32 + 32),
                         table.begin() + static_cast<std::ptrdiff_t>(word * 32));
    }
    EXPECT_TRUE(found) << token;
  }
  config.prompt_tuning_init = "TEXT";
  EXPECT_THAT(MakeInitialAdapter(model::TinyConfig(), config, weights, 1).status().message(), HasSubstr("RANDOM"));
}

TEST(InitialTensors, OfWholeParametersAreTheBasesAndAMissingOneIsNamed) {
  AdapterConfig config = Of(TuningKind::kFull);
  config.layers_to_transform = {1};
  const StateDict weights = model::RandomWeights(model::TinyConfig(), 1);
  for (const auto& [key, tensor] : Make(config)) {
    const Tensor& stored = weights.at(key.substr(std::string("base_model.model.").size()));
    EXPECT_TRUE(std::equal(tensor.bytes().begin(), tensor.bytes().end(), stored.bytes().begin())) << key;
  }
  EXPECT_THAT(MakeInitialAdapter(model::TinyConfig(), config, {}, 1).status().message(),
              HasSubstr("lack model.layers.1.input_layernorm.weight"));
}

TEST(InitialTensors, OfPissaTakeOffTheBaseWhatTheyPutOn) {
  AdapterConfig config = Of(TuningKind::kLora, {"up_proj"});
  config.init_lora_weights = "pissa";
  const StateDict adapter = Make(config);
  const double scaling = config.scaling();
  for (const int layer : {0, 1}) {
    const std::string path = "model.layers." + std::to_string(layer) + ".mlp.up_proj";
    const auto a = adapter.at(LoraAKey(path)).values<float>(), b = adapter.at(LoraBKey(path)).values<float>();
    const auto a0 = adapter.at(BaseDeltaAKey(path)).values<float>(),
               b0 = adapter.at(BaseDeltaBKey(path)).values<float>();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), a0.begin()));
    double norm = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      EXPECT_NEAR(double{b0[i]}, -scaling * double{b[i]}, 1e-6 * std::abs(double{b0[i]}));
      norm += double{b[i]} * double{b[i]};
    }
    EXPECT_GT(norm, 0.1);
  }
  EXPECT_TRUE(FindBaseDeltas(model::TinyConfig(), adapter).ok());
  config.rank_pattern = {{"model.layers.0.mlp.up_proj", 33}};
  EXPECT_THAT(MakeInitialAdapter(model::TinyConfig(), config, model::RandomWeights(model::TinyConfig(), 1), 1)
                  .status()
                  .message(),
              HasSubstr("above the number of singular values"));
}

// ---- the largest singular values ----

std::vector<float> Random(int64_t rows, int64_t columns, uint64_t seed) {
  const PhiloxStream random(DeriveSeed(seed, "matrix", ""));
  std::vector<float> out(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < out.size(); ++i) out[i] = 2 * random.UniformAt(i) - 1;
  return out;
}

TEST(Principal, IsTheBestApproximationOfItsRank) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{24, 17}, {9, 40}, {16, 16}, {1, 5}}) {
    const std::vector<float> matrix = Random(rows, columns, 3);
    const int64_t all = std::min(rows, columns);
    const Principal whole = LargestSingular(matrix, rows, columns, all);
    double squares = 0, of_values = 0;
    for (const float x : matrix) squares += double{x} * double{x};
    for (const double value : whole.values) of_values += value * value;
    EXPECT_NEAR(of_values, squares, 1e-9 * squares);
    for (const int64_t rank : {int64_t{1}, (all + 1) / 2, all}) {
      const Principal top = LargestSingular(matrix, rows, columns, rank);
      double error = 0, rest = 0;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          auto x = double{matrix[static_cast<size_t>(r * columns + c)]};
          for (int64_t k = 0; k < rank; ++k) {
            x -= top.values[static_cast<size_t>(k)] * top.left[static_cast<size_t>(k * rows + r)] *
                 top.right[static_cast<size_t>(k * columns + c)];
          }
          error += x * x;
        }
      }
      for (size_t k = static_cast<size_t>(rank); k < whole.values.size(); ++k)
        rest += whole.values[k] * whole.values[k];
      // Eckart and Young: no matrix of this rank is nearer than by the values that are left out.
      EXPECT_NEAR(error, rest, 1e-7 * squares) << rows << " x " << columns << ", rank " << rank;
      EXPECT_TRUE(std::is_sorted(top.values.rbegin(), top.values.rend()));
    }
  }
}

TEST(Principal, KnowsValuesThatWereMultipliedTogether) {
  // diag(5, 3, 1) between two rotations of the plane, with a row of zeros below.
  const double c = 0.6, s = 0.8;
  const std::vector<float> matrix = {static_cast<float>(5 * c),
                                     static_cast<float>(-3 * s),
                                     0,
                                     static_cast<float>(5 * s),
                                     static_cast<float>(3 * c),
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0};
  const Principal top = LargestSingular(matrix, 4, 3, 3);
  EXPECT_NEAR(top.values[0], 5, 1e-6);
  EXPECT_NEAR(top.values[1], 3, 1e-6);
  EXPECT_NEAR(top.values[2], 1, 1e-6);
  EXPECT_NEAR(top.right[0], 1, 1e-6);
  EXPECT_NEAR(top.left[0], c, 1e-6);
  EXPECT_NEAR(top.left[1], s, 1e-6);
  const std::vector<float> zero(12, 0.0F);
  EXPECT_EQ(LargestSingular(zero, 4, 3, 2).values, (std::vector<double>{0, 0}));
}

}  // namespace
}  // namespace heddle::peft
