// Encoded updates of devices that have given up a part of their rank: the header says how many rows are there.
#include "coordinator/service/update_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "aggregation/compression/compressor.h"
#include "tests/unit/aggregation/updates.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle::coordinator {
namespace {

using ::testing::HasSubstr;

const std::string kA = "base_model.model.h.0.lora_A.weight", kB = "base_model.model.h.0.lora_B.weight";

Result<Recipe> HetLora(const std::string& gamma) {
  return Recipe::LoadText(
      "name = \"test\"\nseed = 5\nmodel.base = \"base\"\n[lora]\nr = 4\n[strategy]\nname = \"HetLoRA\"\n"
      "prune_gamma = " +
          gamma + "\n[compression]\nupload = [\"top_k:0.5\", \"int8\"]\n",
      "/", "recipe");
}

// Factors of that rank beside a head, as the device encodes them for its task of round 2.
StateDict Update(int64_t rank) {
  return aggregation::RandomUpdate({{kA, {rank, 6}}, {kB, {5, rank}}, {"base_model.model.classifier.bias", {3}}},
                                   static_cast<uint64_t>(rank));
}

class UpdateReaderTest : public ::testing::Test {
 protected:
  std::string Encoded(const StateDict& update, const std::string& device = "anna") const {
    const compression::Compressor compressor(recipe_->upload, TaskSeed(5, 2, DeviceId(device)));
    auto encoded = compressor.Encode(update, nullptr);
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    return encoded.ok() ? encoded->bytes : "";
  }
  Result<StateDict> Read(const std::string& bytes, int64_t rank) const {
    const UpdateReader reader(*recipe_, 2, SpecOf(Update(4)));
    return reader.Read(std::as_bytes(std::span(bytes)), nullptr, DeviceId("anna"), DeviceView{.rank = rank});
  }

  Result<Recipe> recipe_ = HetLora("0.5");
};

TEST_F(UpdateReaderTest, ReadsAnyRankUpToTheOneThatTheDeviceWasGiven) {
  ASSERT_TRUE(recipe_.ok()) << recipe_.status();
  for (const int64_t given : {0, 3}) {
    for (int64_t rank = 1; rank <= 4; ++rank) {
      const StateDict update = Update(rank);
      const std::string bytes = Encoded(update);
      const auto read = Read(bytes, given);
      if (given > 0 && rank > given) {
        EXPECT_EQ(read.status().code(), Code::kInvalidArgument) << rank;
        EXPECT_THAT(read.status().message(), HasSubstr("encoded update"));
        continue;
      }
      ASSERT_TRUE(read.ok()) << read.status();
      // As who knows the shapes decodes it.
      const compression::Compressor compressor(recipe_->upload, TaskSeed(5, 2, DeviceId("anna")));
      const auto known = compressor.Decode(std::as_bytes(std::span(bytes)), SpecOf(update), 1 << 20);
      ASSERT_TRUE(known.ok()) << known.status();
      ASSERT_EQ(SpecOf(*read), SpecOf(update));
      for (const auto& [key, tensor] : *known) {
        const auto expected = tensor.values<float>(), got = read->at(key).values<float>();
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), got.begin(), got.end())) << key;
      }
    }
  }
}

TEST_F(UpdateReaderTest, RefusesWhatNoRankGives) {
  ASSERT_TRUE(recipe_.ok()) << recipe_.status();
  StateDict torn = Update(2);
  torn.at(kB) = Update(3).at(kB);  // two rows of A, three columns of B
  const std::string shorter = Encoded(Update(2)).substr(0, 20);
  for (const std::string& bytes :
       {Encoded(torn), Encoded(Update(5)), Encoded(Update(2), "bert"), shorter, std::string()}) {
    EXPECT_EQ(Read(bytes, 0).status().code(), Code::kInvalidArgument);
  }
}

TEST_F(UpdateReaderTest, WithoutPruningFewerRowsAreRefused) {
  recipe_ = HetLora("0");
  ASSERT_TRUE(recipe_.ok()) << recipe_.status();
  EXPECT_TRUE(Read(Encoded(Update(4)), 0).ok());
  EXPECT_EQ(Read(Encoded(Update(2)), 0).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::coordinator
