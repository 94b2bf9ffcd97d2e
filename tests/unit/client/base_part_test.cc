// A device fetches the tensors of its part of the base model, each verified, and holds nothing else.
#include "client/daemon/base_part.h"

#include <gmock/gmock.h>

#include "client/daemon/daemon.h"
#include "client/daemon/enroll.h"
#include "common/safetensors.h"
#include "tests/unit/client/breaking_proxy.h"
#include "tests/unit/client/fake_coordinator.h"
#include "tests/unit/client/one_device.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::client {
namespace {

namespace fs = std::filesystem;
using protocol::TempDir;
using testing::HasSubstr;

class BasePartTest : public OneDevice {
 protected:
  BasePartTest() : OneDevice(HEDDLE_BINARY_DIR) {
    EnrollDevice();
    spec_.num_hidden_layers = 6;
    config_json_ = model::LlamaConfigJson(spec_);
    weights_ = SerializeSafetensors(model::RandomWeights(spec_, 3));
    tree_ = TreeOf(weights_);
  }

  static std::string TreeOf(const std::string& file) {
    return model::EncodeTensorTree(*model::MakeTensorTree(std::as_bytes(std::span(file)), Sha256(file)));
  }
  v1::TaskAssignment Offer(int number, const std::vector<uint32_t>& layers) {
    const v1::TaskAssignment assignment =
        coordinator_.MakePartAssignment(number, {{"config.json", config_json_}, {"model.safetensors", weights_}},
                                        {{"model.safetensors.tree", tree_}}, layers);
    coordinator_.Offer(assignment);
    return assignment;
  }
  v1::ReportRequest LastReport() {
    return coordinator_.reports().empty() ? v1::ReportRequest() : coordinator_.reports().back();
  }
  // The folder that the worker was given.
  SafetensorsFile Folder() {
    for (const auto& entry : fs::directory_iterator(config_.state_dir / "work")) {
      if (!entry.path().filename().string().starts_with("base-")) continue;
      auto read = ReadModelSafetensors(entry.path());
      EXPECT_TRUE(read.ok()) << read.status();
      if (read.ok()) return *std::move(read);
    }
    ADD_FAILURE() << "there is no folder of a base model";
    return {};
  }
  size_t RequestsForWeights(const std::string& what) {
    return coordinator_.CountRequests("GET /v1/blobs/" + Sha256(weights_).ToHex() + what);
  }

  model::ModelSpec spec_ = model::TinyConfig();
  std::string config_json_, weights_, tree_;
};

TEST_F(BasePartTest, ADeviceFetchesTheTensorsOfItsPartAndHoldsNothingElse) {
  Offer(1, {1, 4});
  ASSERT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_COMPLETED) << LastReport().message();
  model::ModelSpec part = spec_;
  part.part.layers = {1, 4};
  const SafetensorsFile folder = Folder();
  EXPECT_EQ(SpecOf(folder.tensors), part.WeightSpec());
  const auto whole = ParseSafetensors(std::as_bytes(std::span(weights_)), nullptr)->tensors;
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : folder.tensors) {
    EXPECT_TRUE(std::ranges::equal(tensor.bytes(), whole.at(name).bytes())) << name;
    bytes += tensor.bytes().size();
  }
  EXPECT_EQ(RequestsForWeights(" bytes="), part.WeightSpec().size()) << "one range a tensor";
  EXPECT_EQ(RequestsForWeights(""), part.WeightSpec().size()) << "and never the file";
  // What lies on the device: the part and a few small files, less than half of the weights.
  uint64_t cached = 0;
  for (const auto& entry : fs::directory_iterator(config_.state_dir / "cache")) cached += entry.file_size();
  EXPECT_LT(cached, bytes + tree_.size() + config_json_.size() + part.WeightSpec().size() * 512);
  EXPECT_LT(cached, weights_.size() * 6 / 10);
}

TEST_F(BasePartTest, AnotherPartFetchesOnlyWhatIsNotThereYet) {
  Offer(1, {0, 2});
  Offer(2, {0, 5});
  ASSERT_TRUE(RunTasks(2).ok());
  ASSERT_EQ(coordinator_.reports().size(), 2U);
  EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_COMPLETED) << LastReport().message();
  model::ModelSpec both = spec_;
  both.part.layers = {0, 2, 5};
  EXPECT_EQ(RequestsForWeights(""), both.WeightSpec().size());
}

TEST_F(BasePartTest, ABrokenDownloadGoesOnWithinItsTensor) {
  BreakingProxy proxy(coordinator_.port());
  config_.port = proxy.port();
  spec_.vocab_size = 20'000;  // so that the break is within the embeddings
  config_json_ = model::LlamaConfigJson(spec_);
  weights_ = SerializeSafetensors(model::RandomWeights(spec_, 3));
  tree_ = TreeOf(weights_);
  Offer(1, {0});
  proxy.BreakDownAfter(1'000'000);
  ASSERT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(proxy.breaks(), 1);
  EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_COMPLETED) << LastReport().message();
  model::ModelSpec part = spec_;
  part.part.layers = {0};
  EXPECT_EQ(SpecOf(Folder().tensors), part.WeightSpec());
  EXPECT_EQ(RequestsForWeights(""), part.WeightSpec().size() + 1);
}

TEST_F(BasePartTest, OneAlteredByteFailsTheTaskWithTheTensorsName) {
  const v1::TaskAssignment assignment = Offer(1, {2});
  std::string altered = weights_;
  altered.back() = static_cast<char>(altered.back() ^ 1);  // of the last tensor: the final norm, which every part has
  for (const v1::BlobRef& ref : assignment.plan().base_model()) {
    if (ref.name() == "model.safetensors") coordinator_.Corrupt(ref, altered);
  }
  ASSERT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_FAILED);
  EXPECT_THAT(LastReport().message(), HasSubstr("model.norm.weight"));
}

TEST_F(BasePartTest, TreesThatDoNotFitThePlanAreRefused) {
  const std::string good = tree_;
  const auto message = [&](int number, const std::vector<uint32_t>& layers) {
    Offer(number, layers);
    EXPECT_TRUE(RunTasks(1).ok());
    EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_FAILED);
    return LastReport().message();
  };
  tree_ = TreeOf(SerializeSafetensors(model::RandomWeights(spec_, 4)));
  EXPECT_THAT(message(1, {1}), HasSubstr("another file"));
  tree_ = good.substr(0, good.size() / 2);
  EXPECT_THAT(message(2, {1}), HasSubstr("model.safetensors.tree"));
  tree_ = good;
  EXPECT_THAT(message(3, {6}), HasSubstr("layer 6"));
  config_json_ = "{}";
  EXPECT_THAT(message(4, {1}), HasSubstr("config.json"));
}

TEST_F(BasePartTest, WithoutTreesAPartComesWithItsWholeFile) {
  coordinator_.Offer(
      coordinator_.MakePartAssignment(1, {{"config.json", config_json_}, {"model.safetensors", weights_}}, {}, {1}));
  ASSERT_TRUE(RunTasks(1).ok());
  EXPECT_EQ(LastReport().outcome(), v1::TASK_OUTCOME_COMPLETED) << LastReport().message();
  EXPECT_EQ(RequestsForWeights(""), 1U);
  EXPECT_EQ(SpecOf(Folder().tensors), spec_.WeightSpec());
}

}  // namespace
}  // namespace heddle::client
