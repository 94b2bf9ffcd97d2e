#include "common/sparse_delta.h"

#include <gtest/gtest.h>

namespace heddle {
namespace {

constexpr std::string_view kPath = "model.layers.0.self_attn.q_proj";

std::string Key() { return std::string(kDensePrefix) + std::string(kPath); }

Tensor Values(int64_t count) { return Tensor::FromFloats({count}, std::vector<float>(static_cast<size_t>(count), 1)); }

StateDict Model(int64_t count, uint64_t seed = 7) {
  return {{Key(), Values(count)}, {std::string(kDenseSeedName), DenseSeedTensor(seed)}};
}

Result<std::vector<SparseDelta>> Find(const StateDict& model, int64_t out = 48, int64_t in = 64) {
  return FindSparseDeltas(model, [&](std::string_view path) -> std::optional<std::pair<int64_t, int64_t>> {
    if (path != kPath) return std::nullopt;
    return std::pair(out, in);
  });
}

// The numbers are those of independent code (Philox and SHA-256 written in Python).
TEST(SparseDelta, HasThePlacesThatItsDefinitionGives) {
  const auto found = Find(Model(70));
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1U);
  const SparseDelta& delta = found->front();
  EXPECT_EQ(delta.path, kPath);
  EXPECT_EQ(delta.out, 48);
  EXPECT_EQ(delta.in, 64);
  ASSERT_EQ(delta.places.size(), 70U);
  EXPECT_EQ(std::vector(delta.places.begin(), delta.places.begin() + 5), (std::vector<uint32_t>{35, 57, 96, 174, 209}));
  EXPECT_EQ(std::vector(delta.places.end() - 3, delta.places.end()), (std::vector<uint32_t>{2952, 3012, 3037}));
  EXPECT_NE(Find(Model(70, 8))->front().places, delta.places);
}

TEST(SparseDelta, CanHaveEveryPlace) {
  const auto found = Find(Model(6), 2, 3);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->front().places, (std::vector<uint32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(Find({})->empty());
}

TEST(SparseDelta, RefusesWhatFitsNoWeight) {
  const auto message = [](const StateDict& model, int64_t out, int64_t in) {
    const auto found = Find(model, out, in);
    EXPECT_EQ(found.status().code(), Code::kInvalidArgument);
    return found.status().message();
  };
  EXPECT_NE(message(Model(7), 2, 3).find("one to 6 values"), std::string::npos);
  EXPECT_NE(message(Model(7), int64_t{1} << 16, int64_t{1} << 16).find("too many elements"), std::string::npos);
  EXPECT_NE(message(Model(7), 0, 3).find("too many elements"), std::string::npos);
  StateDict model = Model(4);
  model.insert_or_assign(Key(), Tensor::FromFloats({2, 2}, std::vector<float>(4)));
  message(model, 4, 4);
  model.insert_or_assign(Key(), Values(0));
  message(model, 4, 4);
  model = Model(4);
  model.erase(std::string(kDenseSeedName));
  EXPECT_NE(message(model, 4, 4).find("heddle.dense_seed"), std::string::npos);
  model.emplace(kDenseSeedName, Values(2));
  EXPECT_NE(message(model, 4, 4).find("heddle.dense_seed"), std::string::npos);
  model = Model(4);
  model.emplace(std::string(kDensePrefix) + "elsewhere", Values(1));
  EXPECT_NE(message(model, 4, 4).find("elsewhere"), std::string::npos);
}

}  // namespace
}  // namespace heddle
