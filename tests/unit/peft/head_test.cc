// Pretrained models that get a new head: loaded without its parameters, which come with the adapter.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "model/config/new_head.h"
#include "peft/tuning/tuning.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/reference_case.h"
#include "tests/unit/model/test_data.h"
#include "tests/unit/peft/tuning_cases.h"

namespace heddle::peft {
namespace {

// The folder of a pretrained model with the config.json of the same model as a classifier.
std::shared_ptr<const model::BaseWeights> WithNewHead(const std::filesystem::path& folder, const TempDir& dir,
                                                      int64_t labels, const model::WeightOptions& options = {}) {
  const auto config = model::ConfigWithNewHead(*ReadFile(folder / "config.json", 1 << 20), labels);
  EXPECT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(WriteFileAtomically(dir.path() / "config.json", *config).ok());
  std::filesystem::create_symlink(folder / "model.safetensors", dir.path() / "model.safetensors");
  auto base = model::BaseWeights::Load(dir.path(), options);
  EXPECT_TRUE(base.ok()) << base.status();
  return base.ok() ? *base : nullptr;
}

void LearnsAClassifierOn(const std::filesystem::path& folder, const model::WeightOptions& options) {
  const TempDir dir;
  const auto base = WithNewHead(folder, dir, 2, options);
  ASSERT_NE(base, nullptr);
  AdapterConfig config;
  config.target_modules = {"query", "value"};
  config.modules_to_save = {"classifier"};
  const StateDict weights = ReadModelSafetensors(folder)->tensors;
  for (const std::string& name : model::MissingHeadParameters(base->spec, SpecOf(weights))) {
    if (name == "bert.pooler.dense.weight") config.modules_to_save.push_back("pooler");  // of no use as zero
  }
  const auto fresh = MakeInitialAdapter(base->spec, config, weights, 1);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  model::Transformer model(base);
  const torch::Tensor ids = torch::arange(2, 26, at::kLong).view({4, 6}), labels = torch::tensor({0, 1, 0, 1});
  EXPECT_EQ(model->forward(ids).abs().max().item<double>(), 0) << "a head that nobody brought is zero";
  auto tuning = Tuning::Inject(model, config, *fresh);
  ASSERT_TRUE(tuning.ok()) << tuning.status();
  const double before = model->Loss(ids, labels).item<double>();
  EXPECT_NEAR(before, std::log(2.0), 0.2);
  for (int step = 0; step < 30; ++step) {
    model->Loss(ids, labels).backward();
    const torch::NoGradGuard no_grad;
    for (const TunedParameter& one : tuning->parameters()) {
      torch::Tensor values = one.tensor;
      values.sub_(values.grad(), 0.2);
      values.mutable_grad() = torch::Tensor();
    }
  }
  EXPECT_LT(model->Loss(ids, labels).item<double>(), 0.9 * before);
  ASSERT_TRUE(tuning->Remove().ok());
  EXPECT_EQ(model->forward(ids).abs().max().item<double>(), 0);
}

TEST(NewHead, ABodyWithoutAHeadLearnsAClassifierThatTravelsWithTheAdapter) {
  LearnsAClassifierOn(TuningCase::Data() / "encoders" / "bert", {});
  LearnsAClassifierOn(TuningCase::Data() / "encoders" / "bert-masked", {model::WeightType::kInt8, torch::kCPU});
}

TEST(NewHead, ARealSentenceEncoderToo) {
  HEDDLE_NEEDS_TEST_DATA("minilm-l6-v2");
  LearnsAClassifierOn(model::TestDataFolder() / "minilm-l6-v2", {});
}

}  // namespace
}  // namespace heddle::peft
