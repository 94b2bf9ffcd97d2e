// Adapters as files and as tensors: PEFT's folder layout and key names, and the initial factors.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/digest.h"
#include "common/safetensors.h"
#include "peft/adapter/adapter.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::peft {
namespace {

AdapterConfig Config(std::vector<std::string> targets = {"q_proj", "down_proj"}) {
  AdapterConfig config;
  config.r = 4;
  config.lora_alpha = 8;
  config.target_modules = std::move(targets);
  return config;
}

std::vector<TargetModule> Targets(const AdapterConfig& config) {
  auto targets = FindTargets(model::TinyConfig().LinearModules(), config);
  EXPECT_TRUE(targets.ok()) << targets.status();
  return *std::move(targets);
}

TEST(FindTargets, ListsTheModulesWithTheirSizes) {
  const auto targets = Targets(Config());
  ASSERT_EQ(targets.size(), 4U);
  EXPECT_EQ(targets[0].path, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(targets[0].in_features, 48);
  EXPECT_EQ(targets[0].out_features, 32);
  EXPECT_EQ(targets[3].path, "model.layers.1.self_attn.q_proj");
}

TEST(FindTargets, AllLinearIsEveryProjectionAndNothingElse) {
  auto config = model::TinyConfig();
  config.tie_word_embeddings = false;
  const auto targets = *FindTargets(config.LinearModules(), Config({"all-linear"}));
  EXPECT_EQ(targets.size(), 14U);  // seven a layer; no lm_head, embedding, norm
  for (const auto& target : targets) EXPECT_TRUE(target.path.ends_with("_proj")) << target.path;
}

TEST(FindTargets, NoMatchNamesTheLayersThereAre) {
  const auto targets = FindTargets(model::TinyConfig().LinearModules(), Config({"query"}));
  EXPECT_EQ(targets.status().code(), Code::kInvalidArgument);
  for (const char* name : {"q_proj", "down_proj", "gate_proj"}) {
    EXPECT_NE(targets.status().message().find(name), std::string::npos) << targets.status();
  }
  EXPECT_FALSE(FindTargets(std::vector<model::LinearSpec>(), Config()).ok());
  EXPECT_FALSE(FindTargets(model::TinyConfig().LinearModules(), Config({"embed_tokens"})).ok());
}

TEST(FindTargets, AnOutputLayerThatIsTiedToTheEmbeddingIsRefusedAndNotPassedOver) {
  model::ModelSpec spec = model::TinyConfig();
  AdapterConfig pattern = Config({});
  pattern.target_modules_regex = ".*(q_proj|lm_head)";
  for (const AdapterConfig& config : {Config({"q_proj", "lm_head"}), pattern}) {
    spec.tie_word_embeddings = true;
    const auto refused = FindTargets(spec, config);
    EXPECT_EQ(refused.status().code(), Code::kUnimplemented);
    EXPECT_NE(refused.status().message().find("lm_head, which this model shares"), std::string::npos);
    spec.tie_word_embeddings = false;
    const auto found = FindTargets(spec, config);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->size(), 3U);
  }
  spec.tie_word_embeddings = true;
  EXPECT_TRUE(FindTargets(spec, Config({"all-linear"})).ok()) << "means no output layer";
  EXPECT_TRUE(FindTargets(spec, Config({"q_proj"})).ok());
}

TEST(AdapterKeys, AreThoseOfPeft) {
  EXPECT_EQ(LoraAKey("model.layers.3.self_attn.q_proj"),
            "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(LoraBKey("lm_head"), "base_model.model.lm_head.lora_B.weight");
}

TEST(InitialAdapter, HasFactorAUniformWithinTheKaimingBoundAndFactorBZero) {
  const AdapterConfig config = Config();
  const auto targets = Targets(config);
  const StateDict adapter = MakeInitialAdapter(targets, config, 1);
  EXPECT_EQ(SpecOf(adapter), AdapterSpec(targets, config));
  for (const TargetModule& target : targets) {
    const auto a = adapter.at(LoraAKey(target.path)).values<float>();
    const auto b = adapter.at(LoraBKey(target.path)).values<float>();
    EXPECT_EQ(adapter.at(LoraAKey(target.path)).shape(), (Shape{4, target.in_features}));
    EXPECT_EQ(adapter.at(LoraBKey(target.path)).shape(), (Shape{target.out_features, 4}));
    EXPECT_TRUE(std::all_of(b.begin(), b.end(), [](float x) { return std::bit_cast<uint32_t>(x) == 0; }));
    const double bound = 1 / std::sqrt(static_cast<double>(target.in_features));
    double mean = 0, square = 0;
    for (const float x : a) {
      EXPECT_LE(std::abs(x), bound);
      mean += x;
      square += static_cast<double>(x) * x;
    }
    const auto count = static_cast<double>(a.size());
    EXPECT_NEAR(mean / count, 0, 5 * bound / std::sqrt(3 * count));
    EXPECT_NEAR(square / count, bound * bound / 3, 0.2 * bound * bound);
  }
}

TEST(InitialAdapter, IsTheSameBitsOnEveryPlatform) {
  // By hand: DeriveSeed and Philox have known-answer tests of their own; the rest is exact in float64 and rounded once.
  AdapterConfig config = Config();
  const StateDict adapter = MakeInitialAdapter({{"m", 3, 2}}, config, 42);
  const PhiloxStream stream(DeriveSeed(42, "lora_A", "m"));
  const auto a = adapter.at(LoraAKey("m")).values<float>();
  ASSERT_EQ(a.size(), 12U);
  for (size_t i = 0; i < a.size(); ++i) {
    const double uniform = static_cast<double>(stream.U32At(i) >> 8) / 16777216.0;
    EXPECT_EQ(a[i], static_cast<float>((2 * uniform - 1) * (1 / std::sqrt(3.0))));
  }
  // The bytes themselves, so that no change goes unseen: adapters of old runs must be reproducible.
  EXPECT_EQ(Sha256(SerializeSafetensors(adapter)).ToHex(),
            "458dfe3abe5960380a5e28f37ec028f3dbf413e843a4974dd7069a0935409c19");
}

TEST(InitialAdapter, DependsOnSeedAndPathOnly) {
  const AdapterConfig config = Config();
  const auto targets = Targets(config);
  const StateDict one = MakeInitialAdapter(targets, config, 1), two = MakeInitialAdapter(targets, config, 2);
  EXPECT_FALSE(SerializeSafetensors(one) == SerializeSafetensors(two));
  const StateDict alone = MakeInitialAdapter({targets[1]}, config, 1);
  for (const auto& [name, tensor] : alone) {
    const auto a = tensor.values<float>(), b = one.at(name).values<float>();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
  // Two modules of one shape do not get the same factor.
  const auto first = one.at(LoraAKey(targets[0].path)).values<float>();
  const auto second = one.at(LoraAKey(targets[2].path)).values<float>();
  ASSERT_EQ(first.size(), second.size());
  EXPECT_FALSE(std::equal(first.begin(), first.end(), second.begin()));
}

TEST(AdapterFolder, ComesBackAsItWasWritten) {
  const TempDir folder;
  const AdapterConfig config = Config();
  const StateDict tensors = MakeInitialAdapter(Targets(config), config, 3);
  ASSERT_TRUE(WriteAdapter(folder / "adapter", config, tensors).ok());
  EXPECT_TRUE(std::filesystem::exists(folder / "adapter/adapter_config.json"));
  EXPECT_TRUE(std::filesystem::exists(folder / "adapter/adapter_model.safetensors"));
  const auto back = ReadAdapter(folder / "adapter");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->config.ToJson(), config.ToJson());
  EXPECT_TRUE(SerializeSafetensors(back->tensors) == SerializeSafetensors(tensors));
  const auto file = ReadSafetensors(folder / "adapter/adapter_model.safetensors");
  EXPECT_EQ(file->metadata.at("format"), "pt");  // transformers asks for it
}

TEST(AdapterFolder, TensorsOfSixteenBitsAreWidened) {
  const TempDir folder;
  const AdapterConfig config = Config();
  StateDict half;
  std::span<std::byte> bytes;
  half.emplace("a", Tensor::Allocate({DType::kBF16, {2, 2}}, &bytes));
  const std::array<uint16_t, 4> bits = {0x3f80, 0xc000, 0x0001, 0x7f7f};  // 1, -2, the smallest, the largest
  std::memcpy(bytes.data(), bits.data(), bytes.size());
  half.emplace("h", Tensor::Allocate({DType::kF16, {2, 2}}, &bytes));
  const std::array<uint16_t, 4> halves = {0x3c00, 0xc000, 0x0001, 0x7bff};  // 1, -2, the smallest, the largest
  std::memcpy(bytes.data(), halves.data(), bytes.size());
  std::span<std::byte> whole;
  half.emplace("b", Tensor::Allocate({DType::kU8, {3}}, &whole));
  ASSERT_TRUE(WriteAdapter(folder / "adapter", config, half).ok());
  const auto back = ReadAdapter(folder / "adapter");
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->tensors.at("a").spec(), (TensorSpec{DType::kF32, {2, 2}}));
  const auto values = back->tensors.at("a").values<float>();
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), (std::vector<float>{1, -2, 0x1p-133F, 0x1.fep127F}));
  ASSERT_EQ(back->tensors.at("h").spec(), (TensorSpec{DType::kF32, {2, 2}}));
  const auto of_halves = back->tensors.at("h").values<float>();
  EXPECT_EQ(std::vector<float>(of_halves.begin(), of_halves.end()), (std::vector<float>{1, -2, 0x1p-24F, 65504}));
  EXPECT_EQ(back->tensors.at("b").dtype(), DType::kU8);
}

TEST(AdapterFolder, AValueThatIsNotFiniteIsRefusedWithItsTensor) {
  const AdapterConfig config = Config();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const TempDir folder;
    StateDict tensors = MakeInitialAdapter(Targets(config), config, 3);
    const std::string key = std::next(tensors.begin())->first;
    Tensor& tensor = tensors.at(key);
    const auto whole = tensor.values<float>();
    std::vector<float> values(whole.begin(), whole.end());
    values.back() = bad;
    tensor = Tensor::FromFloats(tensor.shape(), values);
    ASSERT_TRUE(WriteAdapter(folder / "a", config, tensors).ok());
    const Status refused = ReadAdapter(folder / "a").status();
    EXPECT_EQ(refused.code(), Code::kInvalidArgument);
    EXPECT_NE(refused.message().find("adapter_model.safetensors: " + key), std::string::npos) << refused;
  }
  // Also of sixteen bits.
  const TempDir folder;
  std::span<std::byte> bytes;
  StateDict half{{"h", Tensor::Allocate({DType::kF16, {1}}, &bytes)}};
  const uint16_t infinity = 0x7c00;
  std::memcpy(bytes.data(), &infinity, bytes.size());
  ASSERT_TRUE(WriteAdapter(folder / "a", config, half).ok());
  EXPECT_EQ(ReadAdapter(folder / "a").status().code(), Code::kInvalidArgument);
}

TEST(AdapterFolder, MistakesNameTheFile) {
  const TempDir folder;
  const Status none = ReadAdapter(folder / "nowhere").status();
  EXPECT_EQ(none.code(), Code::kNotFound);
  EXPECT_NE(none.message().find("nowhere: name a folder in PEFT's layout, with adapter_config.json"), std::string::npos)
      << none;
  std::filesystem::create_directory(folder / "a");
  folder.Write("a/adapter_config.json", "{}");
  EXPECT_NE(ReadAdapter(folder / "a").status().message().find("adapter_config.json"), std::string::npos);
  folder.Write("a/adapter_config.json", Config().ToJson());
  EXPECT_EQ(ReadAdapter(folder / "a").status().code(), Code::kNotFound);
  folder.Write("a/adapter_model.safetensors", "not tensors");
  const Status broken = ReadAdapter(folder / "a").status();
  EXPECT_EQ(broken.code(), Code::kInvalidArgument);
  EXPECT_NE(broken.message().find("adapter_model.safetensors"), std::string::npos) << broken;
}

}  // namespace
}  // namespace heddle::peft
