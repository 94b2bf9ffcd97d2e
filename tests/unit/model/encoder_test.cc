// Encoders and vision models against independent float64 implementations: tiny ones of every architecture that come
// with the repository (tests/data/make_encoders.py), and real weights where they are.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <boost/json.hpp>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/transformer/transformer.h"
#include "tests/unit/model/case_folders.h"
#include "tests/unit/model/projected_gradient.h"
#include "tests/unit/model/test_data.h"

namespace heddle::model {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

torch::Tensor ToTorch(const Tensor& tensor) {
  const auto type = tensor.dtype() == DType::kI64   ? at::kLong
                    : tensor.dtype() == DType::kF64 ? at::kDouble
                    : tensor.dtype() == DType::kU8  ? at::kByte
                                                    : at::kFloat;
  return torch::from_blob(const_cast<std::byte*>(tensor.bytes().data()), tensor.shape(), type).clone();
}

// The largest difference, as a part of the largest value that is expected.
double RelativeError(const torch::Tensor& actual, const torch::Tensor& expected) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  const auto difference = (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
  return difference / expected.to(at::kDouble).abs().max().item<double>();
}

// Of the whole, as a part of its length: what roundings that know nothing of each other add up to.
double WholeError(const torch::Tensor& actual, const torch::Tensor& expected) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  const auto wanted = expected.to(at::kDouble);
  return ((actual.to(at::kDouble) - wanted).norm() / wanted.norm()).item<double>();
}

class Fixture {
 public:
  explicit Fixture(const fs::path& folder, const std::string& reference = "reference.safetensors") : folder_(folder) {
    arrays_ = *ReadSafetensors(folder / reference);
    auto base = BaseWeights::Load(folder);
    EXPECT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }
  static Fixture Tiny(const std::string& name) { return Fixture(CaseRoot("encoders") / name); }

  bool Has(const std::string& name) const { return arrays_.tensors.contains(name); }
  torch::Tensor Array(const std::string& name) const { return ToTorch(arrays_.tensors.at(name)); }
  ModelInput Input(const std::string& prefix = "") const {
    if (Has("pixels")) return {.pixels = Array("pixels")};
    return {.ids = Array(prefix + "ids"), .mask = Array(prefix + "mask"), .types = Array(prefix + "types")};
  }
  const std::shared_ptr<const BaseWeights>& base() const { return base_; }
  const fs::path& folder() const { return folder_; }
  json::value Json(const std::string& name) const { return json::parse(*ReadFile(folder_ / name, size_t{1} << 30)); }

 private:
  fs::path folder_;
  SafetensorsFile arrays_;
  std::shared_ptr<const BaseWeights> base_;
};

// The model's loss; of one without a head, something that depends on all of its pooled output.
torch::Tensor LossOf(Transformer& model, const Fixture& fixture) {
  if (fixture.Has("loss")) return model->Loss(fixture.Input(), fixture.Array("targets"));
  return model->Pooled(fixture.Input()).pow(2).sum();
}

class Encoder : public testing::TestWithParam<std::string> {};

TEST_P(Encoder, EveryOutputIsThatOfTheReference) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  torch::NoGradGuard no_grad;
  for (const auto type : {at::kFloat, at::kDouble}) {
    Transformer model(fixture.base(), ComputeOptions{.type = type});
    const double bound = type == at::kFloat ? 1e-5 : 1e-12;
    const ModelInput input = fixture.Input();
    EXPECT_LT(RelativeError(torch::stack(model->HiddenStates(input)), fixture.Array("hidden")), bound);
    EXPECT_LT(RelativeError(model->Hidden(input), fixture.Array("last")), bound);
    if (fixture.Has("pooled")) {
      EXPECT_LT(RelativeError(model->Pooled(input), fixture.Array("pooled")), bound);
      continue;
    }
    EXPECT_LT(RelativeError(model->forward(input), fixture.Array("logits")), bound);
    EXPECT_NEAR(model->Loss(input, fixture.Array("targets")).item<double>(), fixture.Array("loss").item<double>(),
                type == at::kFloat ? 1e-5 : 1e-12);
  }
}

TEST_P(Encoder, RowsDoNotSeeEachOtherNorTheirPadding) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  Transformer model(fixture.base());
  torch::NoGradGuard no_grad;
  ModelInput input = fixture.Input();
  const auto last = model->Hidden(input);
  if (input.pixels.defined()) {
    EXPECT_LT(RelativeError(model->Hidden({.pixels = input.pixels.slice(0, 1, 2)})[0], last[1]), 1e-5);
    return;
  }
  const int64_t tokens = input.mask[1].sum().item<int64_t>();
  ASSERT_LT(tokens, input.ids.size(1));
  const auto row = [&](const torch::Tensor& t) { return t.slice(0, 1, 2).slice(1, 0, tokens); };
  const auto alone = model->Hidden({.ids = row(input.ids), .types = row(input.types)});
  EXPECT_LT(RelativeError(alone[0], last[1].slice(0, 0, tokens)), 1e-5);
  // Whatever stands where there is no token.
  if (fixture.base()->spec.positions.source == PositionSource::kIndex) {
    input.ids = torch::where(input.mask.eq(0), torch::full_like(input.ids, 30), input.ids);
    EXPECT_LT(RelativeError(model->Hidden(input)[1].slice(0, 0, tokens), last[1].slice(0, 0, tokens)), 1e-5);
  }
}

// In float64, on a few entries of every parameter.
TEST_P(Encoder, FullGradientsAreCentralDifferences) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  Transformer model = TrainableCopy(*fixture.base(), at::kDouble);
  LossOf(model, fixture).backward();
  torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (auto& item : model->named_parameters()) {
    auto values = item.value().view({-1});
    const auto gradient = item.value().grad();
    for (const int64_t index : {int64_t{0}, values.numel() / 3, values.numel() - 1}) {
      const double value = values[index].item<double>();
      const auto loss_at = [&](double v) {
        values[index] = v;
        return LossOf(model, fixture).item<double>();
      };
      const double expected = (loss_at(value + kStep) - loss_at(value - kStep)) / (2 * kStep);
      values[index] = value;
      const double actual = gradient.defined() ? gradient.view({-1})[index].item<double>() : 0;
      EXPECT_NEAR(actual, expected, 1e-8 + 1e-6 * std::abs(expected)) << item.key() << "[" << index << "]";
    }
  }
}

TEST_P(Encoder, LoraGradientsAreCentralDifferences) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  Transformer model(fixture.base(), ComputeOptions{.type = at::kDouble});
  torch::manual_seed(3);
  auto linears = model->LinearModules();
  for (auto& [path, linear] : linears) {
    linear->lora_A = (torch::randn({2, linear->in}, at::kDouble) * 0.3).requires_grad_(true);
    linear->lora_B = (torch::randn({linear->out, 2}, at::kDouble) * 0.3).requires_grad_(true);
    linear->scaling = 1.5;
  }
  LossOf(model, fixture).backward();
  for (const auto& parameter : model->parameters()) {
    EXPECT_FALSE(parameter.grad().defined()) << "a frozen weight has a gradient";
  }
  torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (auto& [path, linear] : linears) {
    for (torch::Tensor* factor : {&linear->lora_A, &linear->lora_B}) {
      auto values = factor->view({-1});
      for (const int64_t index : {int64_t{0}, values.numel() - 1}) {
        const double value = values[index].item<double>();
        const auto loss_at = [&](double v) {
          values[index] = v;
          return LossOf(model, fixture).item<double>();
        };
        const double expected = (loss_at(value + kStep) - loss_at(value - kStep)) / (2 * kStep);
        values[index] = value;
        EXPECT_NEAR(factor->grad().view({-1})[index].item<double>(), expected, 1e-8 + 1e-6 * std::abs(expected))
            << path << "[" << index << "]";
      }
    }
  }
}

TEST_P(Encoder, Bfloat16StaysWithinItsRounding) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  Transformer model(fixture.base(), ComputeOptions{.type = at::kBFloat16});
  torch::NoGradGuard no_grad;
  // Eight bits of mantissa, a few dozen roundings on the way.
  EXPECT_LT(WholeError(model->Hidden(fixture.Input()), fixture.Array("last")), 0.05);
  if (!fixture.Has("loss")) return;
  const auto logits = model->forward(fixture.Input());
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
  EXPECT_LT(WholeError(logits, fixture.Array("logits")), 0.05);
}

TEST_P(Encoder, CheckpointingGivesTheSameGradientsBitForBit) {
  const Fixture fixture = Fixture::Tiny(GetParam());
  std::vector<std::vector<torch::Tensor>> gradients;
  for (const bool checkpoint : {false, true}) {
    Transformer model(fixture.base(), ComputeOptions{.checkpoint_layers = checkpoint});
    torch::manual_seed(4);
    auto linears = model->LinearModules();
    for (auto& [path, linear] : linears) {
      linear->lora_A = (torch::randn({2, linear->in}) * 0.3).requires_grad_(true);
      linear->lora_B = (torch::randn({linear->out, 2}) * 0.3).requires_grad_(true);
      linear->scaling = 1;
      linear->dropout = 0.2;
    }
    model->SeedDropout(9);
    model->train();
    LossOf(model, fixture).backward();
    auto& all = gradients.emplace_back();
    for (auto& [path, linear] : linears) all.insert(all.end(), {linear->lora_A.grad(), linear->lora_B.grad()});
  }
  ASSERT_EQ(gradients[0].size(), gradients[1].size());
  for (size_t i = 0; i < gradients[0].size(); ++i) EXPECT_TRUE(torch::equal(gradients[0][i], gradients[1][i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Tiny, Encoder, testing::ValuesIn(CaseNames("encoders")),
                         [](const auto& info) { return CaseTestName(info.param); });

TEST(EncoderLoss, LabelsOutOfRangeAndTargetsOfTheWrongKindAreRefused) {
  const Fixture classes = Fixture::Tiny("bert-classes"), grade = Fixture::Tiny("bert-grade");
  Transformer model(classes.base()), regression(grade.base());
  const ModelInput input = classes.Input();
  EXPECT_THROW(model->Loss(input, torch::tensor({0, 1, 3}, at::kLong)), c10::Error);
  EXPECT_THROW(model->Loss(input, torch::tensor({0, 1, -1}, at::kLong)), c10::Error);
  EXPECT_THROW(model->Loss(input, torch::tensor({0.0, 1.0, 2.0})), c10::Error);
  EXPECT_THROW(model->Loss(input, torch::tensor({0, 1}, at::kLong)), c10::Error);
  EXPECT_THROW(regression->Loss(grade.Input(), torch::tensor({0, 1, 0}, at::kLong).slice(0, 0, 2)), c10::Error);
}

TEST(MiniLm, EveryOutputIsThatOfTheReference) {
  HEDDLE_NEEDS_TEST_DATA("minilm-l6-v2");
  const Fixture fixture(TestDataFolder() / "minilm-l6-v2", "reference/reference.safetensors");
  Transformer model(fixture.base());
  torch::NoGradGuard no_grad;
  for (const std::string which : {"in0_", "in1_", "in2_"}) {
    const ModelInput input = fixture.Input(which);
    EXPECT_LT(RelativeError(torch::stack(model->HiddenStates(input)), fixture.Array(which + "hidden")), 1e-5) << which;
    const auto last = model->Hidden(input);
    EXPECT_LT(RelativeError(last, fixture.Array(which + "last")), 1e-5) << which;
    EXPECT_LT(RelativeError(model->Pooled(input), fixture.Array(which + "pooler")), 1e-5) << which;
    const auto mask = input.mask.unsqueeze(2).to(at::kFloat);
    EXPECT_LT(RelativeError((last * mask).sum(1) / mask.sum(1), fixture.Array(which + "mean")), 1e-5) << which;
  }
}

TEST(MiniLm, Bfloat16StaysWithinItsRounding) {
  HEDDLE_NEEDS_TEST_DATA("minilm-l6-v2");
  const Fixture fixture(TestDataFolder() / "minilm-l6-v2", "reference/reference.safetensors");
  Transformer model(fixture.base(), ComputeOptions{.type = at::kBFloat16});
  torch::NoGradGuard no_grad;
  for (const std::string which : {"in0_", "in1_", "in2_"}) {
    const double error = WholeError(model->Hidden(fixture.Input(which)), fixture.Array(which + "last"));
    EXPECT_LT(error, 0.05) << which;
    EXPECT_GT(error, 1e-5) << "float32 computed";
  }
}

TEST(VitMnist, Bfloat16StaysWithinItsRounding) {
  HEDDLE_NEEDS_TEST_DATA("vit-mnist");
  const Fixture fixture(TestDataFolder() / "vit-mnist", "reference/reference.safetensors");
  Transformer model(fixture.base(), ComputeOptions{.type = at::kBFloat16});
  torch::NoGradGuard no_grad;
  const auto images = fixture.Array("images_u8").to(at::kFloat).unsqueeze(1) / 255;
  const double error = WholeError(model->forward({.pixels = (images - 0.1307) / 0.3081}), fixture.Array("logits"));
  EXPECT_LT(error, 0.05);
  EXPECT_GT(error, 1e-5) << "float32 computed";
}

TEST(VitMnist, EveryOutputIsThatOfTheReference) {
  HEDDLE_NEEDS_TEST_DATA("vit-mnist");
  const Fixture fixture(TestDataFolder() / "vit-mnist", "reference/reference.safetensors");
  Transformer model(fixture.base());
  torch::NoGradGuard no_grad;
  const auto images = fixture.Array("images_u8").to(at::kFloat).unsqueeze(1) / 255;
  const ModelInput input{.pixels = (images - 0.1307) / 0.3081};
  EXPECT_LT(RelativeError(torch::stack(model->HiddenStates(input)), fixture.Array("hidden")), 1e-5);
  EXPECT_LT(RelativeError(model->forward(input), fixture.Array("logits")), 1e-5);
  EXPECT_LT(RelativeError(model->forward(input), fixture.Array("test_logits").slice(0, 0, 8)), 1e-5);
}

// What the losses of the two gradients.json are of.
struct RealGradients {
  explicit RealGradients(const std::string& name, at::ScalarType type = at::kFloat)
      : fixture(TestDataFolder() / name, "reference/reference.safetensors"),
        arrays(*ReadSafetensors(fixture.folder() / "reference/gradients.safetensors")),
        expected(fixture.Json("reference/gradients.json")) {
    if (name == "vit-mnist") {
      const auto images = fixture.Array("images_u8").to(type).unsqueeze(1) / 255;
      input.pixels = (images - 0.1307) / 0.3081;
      return;
    }
    input = fixture.Input("in2_");
    std::vector<torch::Tensor> rows;
    for (const auto& row : expected.at("head_weight").as_array()) {
      rows.push_back(torch::tensor(json::value_to<std::vector<double>>(row), at::kDouble));
    }
    head = torch::stack(rows).to(type).requires_grad_(true);
  }
  torch::Tensor Loss(Transformer& model) const {
    if (!head.defined()) return model->Loss(input, fixture.Array("labels").to(at::kLong));
    const auto mask = input.mask.unsqueeze(2).to(head.scalar_type());
    const auto mean = (model->Hidden(input) * mask).sum(1) / mask.sum(1);
    return at::cross_entropy_loss(at::linear(mean, head),
                                  torch::tensor(json::value_to<std::vector<int64_t>>(expected.at("labels"))));
  }

  Fixture fixture;
  SafetensorsFile arrays;
  json::value expected;
  ModelInput input;
  torch::Tensor head;  // of the sentence encoder
};

class RealEncoder : public testing::TestWithParam<const char*> {};

TEST_P(RealEncoder, WeightGradientsMatchCentralDifferences) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const RealGradients c(GetParam());
  Transformer model = TrainableCopy(*c.fixture.base());
  const auto loss = c.Loss(model);
  EXPECT_NEAR(loss.item<double>(), c.expected.at("loss").to_number<double>(), 1e-5);
  loss.backward();
  const auto parameters = model->named_parameters();
  for (const auto& entry : c.expected.at("entries").as_array()) {
    const std::string name(entry.at(0).as_string());
    const auto index = entry.at(1).to_number<int64_t>();
    const double expected = entry.at(3).to_number<double>();
    const auto gradient = name == "head.weight" ? c.head.grad() : parameters[name].grad();
    EXPECT_NEAR(gradient.flatten()[index].item<double>(), expected, 1e-6 + 1e-3 * std::abs(expected))
        << name << "[" << index << "]";
  }
}

TEST_P(RealEncoder, LoraGradientsMatchCentralDifferences) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const RealGradients c(GetParam());
  Transformer model(c.fixture.base());
  std::string path(c.expected.at("lora_target").as_string());
  path.resize(path.size() - std::string(".weight").size());
  Linear target = model->LinearModules().at(path);
  const auto factor = [&](const char* name) {
    return ToTorch(c.arrays.tensors.at(name)).to(at::kFloat).requires_grad_(true);
  };
  target->lora_A = factor("lora_A");
  target->lora_B = factor("lora_B");
  target->scaling = c.expected.at("lora_scale").to_number<double>();
  const auto loss = c.Loss(model);
  EXPECT_NEAR(loss.item<double>(), c.expected.at("lora_loss").to_number<double>(), 1e-5);
  loss.backward();
  for (const auto& entry : c.expected.at("lora").as_array()) {
    const auto& of = entry.at(0).as_string() == "A" ? target->lora_A : target->lora_B;
    const double expected = entry.at(2).to_number<double>();
    EXPECT_NEAR(of.grad().flatten()[entry.at(1).to_number<int64_t>()].item<double>(), expected,
                1e-6 + 1e-3 * std::abs(expected));
  }
}

TEST_P(RealEncoder, ProjectedGradientsAreThoseOfTheReference) {
  HEDDLE_NEEDS_TEST_DATA(GetParam());
  const RealGradients c(GetParam(), at::kDouble);
  Transformer model = TrainableCopy(*c.fixture.base(), at::kDouble);
  ExpectProjectedGradient(
      c.expected.at("spsa"),
      [&](const std::string& name) { return name == "head.weight" ? c.head : model->named_parameters()[name]; },
      [&](const std::string& name) { return ToTorch(c.arrays.tensors.at("z:" + name)); },
      [&] { return c.Loss(model).item<double>(); });
}

INSTANTIATE_TEST_SUITE_P(Weights, RealEncoder, testing::Values("minilm-l6-v2", "vit-mnist"),
                         [](const auto& info) { return std::string(info.param).substr(0, 3); });

}  // namespace
}  // namespace heddle::model
