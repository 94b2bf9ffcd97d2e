// Every architecture on its committed cases: numbers and gradients against independent float64 code, and what must not
// change them: checkpointing, padding, packing, a cache.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "common/random.h"
#include "model/transformer/generate.h"
#include "tests/unit/model/reference_case.h"

namespace heddle::model {
namespace {

class Architecture : public testing::TestWithParam<std::string> {
 protected:
  const ReferenceCase case_{GetParam()};
  const bool causal_ = case_.base()->spec.head.task == Task::kCausalLm;
  // Then all angles change with the length of the text, beyond the trained one.
  const bool dynamic_ = case_.base()->spec.rotary.scaling == RotaryScaling::kDynamic;
};

// Of the whole: ||a - b|| / ||b||.
double RelativeError(const torch::Tensor& a, const torch::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return ((a.detach().to(at::kDouble) - b).norm() / b.norm()).item<double>();
}

TEST_P(Architecture, LogitsAndLossMatchFloat64) {
  Transformer model(case_.base());
  torch::NoGradGuard no_grad;
  const auto expected = case_.Array("logits");
  const auto logits = model->forward(case_.Input());
  EXPECT_LT(MaxDifference(logits, expected), 1e-4 * expected.abs().max().item<double>());
  EXPECT_NEAR(model->Loss(case_.Input(), case_.Array("targets")).item<double>(), case_.Array("loss").item<double>(),
              1e-5);
}

// Where the numbers are wrong first, if they are.
TEST_P(Architecture, TheResidualStreamMatchesFloat64AfterEveryLayer) {
  torch::NoGradGuard no_grad;
  const auto expected = case_.Array("hidden");
  ASSERT_EQ(expected.size(0), case_.base()->spec.num_hidden_layers + 1);
  for (const auto type : {at::kFloat, at::kDouble}) {
    Transformer model(case_.base(), ComputeOptions{.type = type});
    const auto hidden = torch::stack(model->HiddenStates(case_.Input()));
    EXPECT_LT(MaxDifference(hidden, expected),
              type == at::kDouble ? 1e-11 : 1e-4 * expected.abs().max().item<double>());
  }
}

TEST_P(Architecture, InFloat64NothingButRoundingIsLeft) {
  Transformer model(case_.base(), ComputeOptions{.type = at::kDouble});
  torch::NoGradGuard no_grad;
  const auto logits = model->forward(case_.Input());
  EXPECT_EQ(logits.scalar_type(), at::kDouble);
  EXPECT_LT(MaxDifference(logits, case_.Array("logits")), 1e-11);
  EXPECT_NEAR(model->Loss(case_.Input(), case_.Array("targets")).item<double>(), case_.Array("loss").item<double>(),
              1e-12);
}

TEST_P(Architecture, Bfloat16StaysWithinItsRounding) {
  Transformer model(case_.base(), ComputeOptions{.type = at::kBFloat16});
  torch::NoGradGuard no_grad;
  const auto expected = case_.Array("logits");
  const auto logits = model->forward(case_.Input());
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
  // Eight bits of mantissa; a few dozen roundings on the way.
  EXPECT_LT(RelativeError(logits, expected), 0.03);
  EXPECT_NEAR(model->Loss(case_.Input(), case_.Array("targets")).item<double>(), case_.Array("loss").item<double>(),
              0.05);
}

TEST_P(Architecture, LoraGradientsMatchFloat64) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    Transformer model(case_.base(), ComputeOptions{.type = type});
    case_.Inject(model, type);
    const auto loss = model->Loss(case_.Input(), case_.Array("targets"));
    const double tolerance = type == at::kDouble ? 1e-11 : 1e-4;
    EXPECT_NEAR(loss.item<double>(), case_.Array("lora_loss").item<double>(), tolerance);
    loss.backward();
    size_t checked = 0;
    for (const auto& [path, linear] : model->LinearModules()) {
      if (!linear->lora_A.defined()) continue;
      EXPECT_LT(MaxDifference(linear->lora_A.grad(), case_.Array("grad_A:" + path)), tolerance) << path;
      EXPECT_LT(MaxDifference(linear->lora_B.grad(), case_.Array("grad_B:" + path)), tolerance) << path;
      ++checked;
    }
    EXPECT_GT(checked, 0U);
    for (const auto& parameter : model->parameters()) EXPECT_FALSE(parameter.grad().defined());
  }
}

TEST_P(Architecture, MasterFactorsAreFloat32ThoughBfloat16Computes) {
  Transformer model(case_.base(), ComputeOptions{.type = at::kBFloat16});
  case_.Inject(model, at::kFloat);
  model->Loss(case_.Input(), case_.Array("targets")).backward();
  std::vector<torch::Tensor> found, expected;
  for (const auto& [path, linear] : model->LinearModules()) {
    if (!linear->lora_A.defined()) continue;
    ASSERT_EQ(linear->lora_A.grad().scalar_type(), at::kFloat);
    found.push_back(linear->lora_B.grad().flatten());
    expected.push_back(case_.Array("grad_B:" + path).flatten());
  }
  // All together: the gradients of one layer may be as small as the rounding of another's.
  EXPECT_LT(RelativeError(at::cat(found), at::cat(expected)), 0.15);
}

// All gradients of the losses with and without checkpointing.
std::vector<torch::Tensor> Gradients(const ReferenceCase& reference, bool checkpoint, double dropout, double* loss) {
  Transformer model(reference.base(), ComputeOptions{.checkpoint_layers = checkpoint});
  reference.Inject(model, at::kFloat);
  for (auto& [path, linear] : model->LinearModules()) linear->dropout = dropout;
  model->SeedDropout(5);
  model->train();
  std::vector<torch::Tensor> gradients;
  // Twice, so that a generator that was not put back where it belongs shows.
  for (int i = 0; i < 2; ++i) {
    const auto value = model->Loss(reference.Input(), reference.Array("targets"));
    value.backward();
    *loss = value.item<double>();
  }
  for (const auto& [path, linear] : model->LinearModules()) {
    if (linear->lora_A.defined()) gradients.insert(gradients.end(), {linear->lora_A.grad(), linear->lora_B.grad()});
  }
  return gradients;
}

TEST_P(Architecture, CheckpointingGivesTheSameGradientsBitForBit) {
  for (const double dropout : {0.0, 0.3}) {
    double kept_loss = 0, replayed_loss = 0;
    const auto kept = Gradients(case_, false, dropout, &kept_loss);
    const auto replayed = Gradients(case_, true, dropout, &replayed_loss);
    EXPECT_EQ(kept_loss, replayed_loss);
    ASSERT_EQ(kept.size(), replayed.size());
    for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(torch::equal(kept[i], replayed[i])) << i;
  }
}

// A trainable float64 model with weights that are large enough to have gradients of some size.
Transformer TrainableModel(const ModelSpec& spec) {
  Transformer model(spec, 5, ComputeOptions{.type = at::kDouble});
  model->to(at::kDouble);
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    torch::Tensor values = item.value();
    const PhiloxStream random(DeriveSeed(7, "gradient test", item.key()));
    for (int64_t i = 0; i < values.numel(); ++i) {
      const double noise = 2.0 * static_cast<double>(random.UniformAt(static_cast<uint64_t>(i))) - 1.0;
      values.data_ptr<double>()[i] = (values.dim() == 1 ? values.data_ptr<double>()[i] : 0.0) + 0.4 * noise;
    }
  }
  return model;
}

// Along a direction: one number that every entry of the gradient has a part in.
void CheckAlong(torch::Tensor parameter, const torch::Tensor& direction, const std::function<double()>& loss,
                const std::string& what) {
  const double along = (parameter.grad() * direction).sum().item<double>();
  torch::NoGradGuard no_grad;
  const torch::Tensor start = parameter.clone();
  const auto loss_at = [&](double step) {
    parameter.copy_(start + direction * step);
    return loss();
  };
  // So small that it steps over hardly any kink of a rectifier.
  const double h = 1e-6 / std::max(1.0, direction.norm().item<double>());
  const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
  parameter.copy_(start);
  EXPECT_NEAR(along, slope, 1e-7 + 1e-6 * std::abs(slope)) << what;
}

torch::Tensor Signs(const torch::Tensor& like, const std::string& name) {
  torch::Tensor signs = torch::empty_like(like);
  const PhiloxStream random(DeriveSeed(1, "direction", name));
  for (int64_t i = 0; i < signs.numel(); ++i) {
    signs.data_ptr<double>()[i] = random.UniformAt(static_cast<uint64_t>(i)) < 0.5F ? -1.0 : 1.0;
  }
  return signs;
}

TEST_P(Architecture, AllGradientsMatchCentralDifferencesInFloat64) {
  Transformer model = TrainableModel(case_.base()->spec);
  const ModelInput input = case_.Input();
  const auto targets = case_.Array("targets");
  const auto loss = [&] { return model->Loss(input, targets).item<double>(); };
  model->Loss(input, targets).backward();
  for (auto& item : model->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    torch::Tensor parameter = item.value();
    CheckAlong(parameter, Signs(parameter, item.key()), loss, item.key());
    // A gradient that is orthogonal to what it should be would pass the first: along itself its slope is its square.
    CheckAlong(parameter, parameter.grad().clone(), loss, item.key() + " along its gradient");
  }
}

TEST_P(Architecture, LoraGradientsMatchCentralDifferencesToo) {
  Transformer model(case_.base(), ComputeOptions{.type = at::kDouble});
  case_.Inject(model, at::kDouble);
  const auto loss = [&] { return model->Loss(case_.Input(), case_.Array("targets")).item<double>(); };
  model->Loss(case_.Input(), case_.Array("targets")).backward();
  for (const auto& [path, linear] : model->LinearModules()) {
    if (!linear->lora_A.defined()) continue;
    CheckAlong(linear->lora_A, Signs(linear->lora_A, path + "A"), loss, path + " A");
    CheckAlong(linear->lora_B, Signs(linear->lora_B, path + "B"), loss, path + " B");
  }
}

TEST_P(Architecture, RoundTripsItsOwnNames) {
  const ModelSpec& spec = case_.base()->spec;
  Transformer model(spec, 1);
  const StateDictSpec weights = spec.WeightSpec();
  EXPECT_EQ(model->named_parameters().size(), weights.size());
  for (const auto& item : model->named_parameters()) {
    ASSERT_TRUE(weights.contains(item.key())) << item.key();
    EXPECT_EQ(Shape(item.value().sizes().begin(), item.value().sizes().end()), weights.find(item.key())->second.shape);
  }
  EXPECT_EQ(model->LinearModules().size(), spec.LinearModules().size());
}

TEST_P(Architecture, PaddingChangesNothingForTheTokens) {
  if (dynamic_) GTEST_SKIP() << "padding counts in the length that its angles come from, as in Hugging Face";
  Transformer model(case_.base());
  torch::NoGradGuard no_grad;
  const auto ids = case_.Array("ids"), whole = model->forward(case_.Input());
  // The second row has three tokens of padding at its beginning: without them its tokens see the same. Learned
  // positions that count the padding differ.
  if (case_.base()->spec.positions.source == PositionSource::kIndex && !case_.base()->spec.positions.name.empty()) {
    GTEST_SKIP() << "its positions count padding";
  }
  const auto alone = model->forward(ids.slice(0, 1, 2).slice(1, 3));
  EXPECT_LT(MaxDifference(whole[1].slice(0, 3), alone[0]), 1e-4);
  // What stands at the padded places does not matter.
  ModelInput other = case_.Input();
  other.ids[1].slice(0, 0, 3).fill_(1);
  EXPECT_LT(MaxDifference(model->forward(other)[1].slice(0, 3), whole[1].slice(0, 3)), 1e-5);
}

TEST_P(Architecture, PackedSequencesAreAsTheyAreAlone) {
  if (!causal_) GTEST_SKIP() << "only causal models take packed sequences";
  Transformer model(case_.base());
  torch::NoGradGuard no_grad;
  const auto ids = case_.Array("ids").slice(0, 0, 1);
  const auto segments = torch::tensor({0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2}, at::kLong).unsqueeze(0);
  const auto packed = model->forward(ModelInput{.ids = ids, .segments = segments})[0];
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 9}, {9, 11}}) {
    const auto alone = model->forward(ids.slice(1, begin, end))[0];
    EXPECT_LT(MaxDifference(packed.slice(0, begin, end), alone), 1e-4) << begin;
  }
  EXPECT_GT(MaxDifference(packed, model->forward(ids)[0]), 1e-2);  // or the test shows nothing
}

TEST_P(Architecture, DecodingWithACacheGivesTheLogitsOfTheWhole) {
  if (!causal_) GTEST_SKIP() << "it does not generate";
  if (dynamic_) GTEST_SKIP() << "keys in the cache keep the angles of their time, as in Hugging Face";
  Transformer model(case_.base());
  const ModelInput input = case_.Input();
  torch::Tensor whole;
  {
    torch::NoGradGuard no_grad;
    whole = model->forward(input);
  }
  KvCache cache;
  int64_t begin = 0;
  for (const int64_t count : {4, 1, 1, 3, 1, 1}) {
    const int64_t end = begin + count;
    const ModelInput part{.ids = input.ids.slice(1, begin, end), .mask = input.mask.slice(1, begin, end)};
    const auto logits = model->Decode(part, &cache);
    EXPECT_EQ(cache.length, end);
    EXPECT_LT(MaxDifference(logits, whole.select(1, end - 1)), 1e-4) << end;
    begin = end;
  }
}

TEST_P(Architecture, GreedyTextIsThatOfTheLikeliestTokens) {
  if (!causal_) GTEST_SKIP() << "it does not generate";
  Transformer model(case_.base());
  std::vector<int64_t> ids = {3, 1, 4}, expected;
  {
    torch::NoGradGuard no_grad;
    while (expected.size() < 6) {
      const auto logits = model->forward(torch::tensor(ids, at::kLong).unsqueeze(0));
      expected.push_back(logits[0][-1].argmax().item<int64_t>());
      ids.push_back(expected.back());
    }
  }
  const std::vector<int64_t> prompt = {3, 1, 4};
  const auto text = Generate(model, prompt, GenerateOptions{.max_new_tokens = 6});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, expected);
}

// architecture_cases_test.cc sees to it that every architecture has a case here or in encoder_test.cc.
INSTANTIATE_TEST_SUITE_P(Cases, Architecture, testing::ValuesIn(ReferenceCase::Names()),
                         [](const auto& info) { return CaseTestName(info.param); });

}  // namespace
}  // namespace heddle::model
