#include "peft/adapter/base_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_dir.h"

namespace heddle::peft {
namespace {

using ::testing::HasSubstr;

class BaseModel : public testing::Test {
 protected:
  BaseModel() {
    std::filesystem::create_directories(dir_ / "base");
    std::filesystem::create_directories(dir_ / "other");
    std::filesystem::create_directories(dir_ / "adapter");
    dir_.Write("base/model.safetensors", "weights");
    dir_.Write("other/model.safetensors", "weighty");  // as long as the first
    dir_.Write("adapter/base_model.json", BaseModelJson({{"model.safetensors", Sha256("weights")}}));
  }
  TempDir dir_;
};

TEST_F(BaseModel, AnAdapterFitsTheWeightsThatItWasMadeForAndNoOthers) {
  EXPECT_TRUE(CheckBaseModel(dir_ / "adapter", dir_ / "base").ok());
  const Status other = CheckBaseModel(dir_ / "adapter", dir_ / "other");
  EXPECT_EQ(other.code(), Code::kInvalidArgument);
  EXPECT_THAT(other.message(), HasSubstr("was made for another base model"));
  EXPECT_THAT(other.message(), HasSubstr((dir_ / "other/model.safetensors").string()));
  EXPECT_THAT(CheckBaseModel(dir_ / "adapter", dir_.path()).message(), HasSubstr("is not there"));
}

TEST_F(BaseModel, AnAdapterThatSaysNothingFitsAnyBase) {
  std::filesystem::remove(dir_ / "adapter/base_model.json");
  EXPECT_TRUE(CheckBaseModel(dir_ / "adapter", dir_ / "other").ok());
}

TEST_F(BaseModel, ADamagedFileIsNotPassedOver) {
  for (const char* text :
       {"", "{}", "[]", R"({"weights": 1})", R"({"weights": [1]})", R"({"weights": [{"name": "x"}]})",
        R"({"weights": [{"name": "model.safetensors", "sha256": "12"}]})",
        R"({"weights": [{"name": "../x", "sha256": "12"}]})"}) {
    dir_.Write("adapter/base_model.json", text);
    const Status refused = CheckBaseModel(dir_ / "adapter", dir_ / "base");
    EXPECT_EQ(refused.code(), Code::kInvalidArgument) << text;
    EXPECT_THAT(refused.message(), HasSubstr("base_model.json")) << text;
  }
}

}  // namespace
}  // namespace heddle::peft
