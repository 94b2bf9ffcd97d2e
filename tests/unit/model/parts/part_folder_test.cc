#include "model/parts/part_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;

class PartFolder : public testing::Test {
 protected:
  PartFolder() {
    ModelSpec spec = TinyConfig();
    spec.num_hidden_layers = 4;
    WriteModelFolder(whole(), spec);
  }
  fs::path whole() const { return temp_.path() / "whole"; }
  fs::path part() const { return temp_.path() / "part"; }
  Status Write(const Cut& cut = {}) { return WriteDevicePart(whole(), cut, part()); }
  static uint64_t WeightBytes(const fs::path& folder) {
    uint64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
    }
    return bytes;
  }
  fs::path OneTensor() const {
    for (const auto& entry : fs::directory_iterator(part())) {
      if (entry.path().filename().string().starts_with("tensor-")) return entry.path();
    }
    return {};
  }

  TempDir temp_;
};

TEST_F(PartFolder, HasTheTensorsOfThePartAndTheDigestOfTheWhole) {
  const std::string digest = BaseModelDigest(whole()).value();
  for (const Cut& cut : {Cut{1, SplitTopology::kUShaped}, Cut{2, SplitTopology::kLabelSharing}, Cut{0}}) {
    fs::remove_all(part());
    const Status written = Write(cut);
    ASSERT_TRUE(written.ok()) << written;
    EXPECT_EQ(BaseModelDigest(part()).value(), digest);
    ModelSpec spec = ReadModelConfig(part()).value();
    spec.part = DevicePart(spec, cut).value();
    const auto tensors = ReadModelSafetensors(part());
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ(SpecOf(tensors->tensors), spec.WeightSpec());
    EXPECT_LT(WeightBytes(part()), WeightBytes(whole()));
    const auto all = ReadModelSafetensors(whole());
    for (const auto& [name, tensor] : tensors->tensors) {
      EXPECT_TRUE(std::ranges::equal(tensor.bytes(), all->tensors.find(name)->second.bytes())) << name;
    }
    EXPECT_TRUE(fs::exists(part() / "tokenizer.json"));
  }
}

TEST_F(PartFolder, AnyOtherByteIsAnotherModelOrRefused) {
  const std::string digest = BaseModelDigest(whole()).value();
  ASSERT_TRUE(Write().ok());
  const auto change = [](const fs::path& path, size_t at) {
    std::string bytes = ReadFile(path, size_t{1} << 24).value();
    bytes[at % bytes.size()] = static_cast<char>(bytes[at % bytes.size()] ^ 1);
    ASSERT_TRUE(WriteFileAtomically(path, bytes).ok());
  };
  change(part() / "config.json", 0);
  EXPECT_NE(BaseModelDigest(part()).value(), digest);
  change(part() / "config.json", 0);
  EXPECT_EQ(BaseModelDigest(part()).value(), digest);
  const size_t size = fs::file_size(OneTensor());
  change(OneTensor(), size - 1);
  EXPECT_EQ(BaseModelDigest(part()).status().code(), Code::kDataLoss);
  change(OneTensor(), size - 1);
  change(part() / "model.safetensors.tree", 40);
  EXPECT_EQ(BaseModelDigest(part()).status().code(), Code::kInvalidArgument);
  change(part() / "model.safetensors.tree", 40);
  change(whole() / "model.safetensors", fs::file_size(whole() / "model.safetensors") - 1);
  EXPECT_NE(BaseModelDigest(whole()).value(), digest);
}

TEST_F(PartFolder, WhatCannotBeOneIsRefused) {
  EXPECT_EQ(Write({4, SplitTopology::kUShaped}).code(), Code::kInvalidArgument);
  EXPECT_EQ(BaseModelDigest(temp_.path() / "nowhere").status().code(), Code::kNotFound);
  fs::create_directories(part());
  EXPECT_EQ(BaseModelDigest(part()).status().code(), Code::kNotFound);
  ASSERT_TRUE(WriteFileAtomically(part() / "mine.txt", "mine").ok());
  EXPECT_EQ(Write().code(), Code::kAlreadyExists);
  EXPECT_TRUE(fs::exists(part() / "mine.txt"));
}

}  // namespace
}  // namespace heddle::model
