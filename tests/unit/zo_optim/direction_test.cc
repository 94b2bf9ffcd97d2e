#include "zo_optim/direction/direction.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/digest.h"
#include "common/random.h"
#include "zo_optim/direction/kernels.h"

namespace heddle::zo {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kSeed = 0x0123456789abcdef;
constexpr uint64_t kStream = 0xbb34fda58a0be596;
constexpr std::array<uint64_t, 10> kIndices = {0, 1, 31, 32, 63, 64, 1000, 2047, 2048, 123456789012};

// The worked values are those of tests/data/zo/make_direction_values.py.
TEST(Direction, TheStreamOfAParameterIsFixedForEver) {
  EXPECT_EQ(ParameterStream("model.layers.0.self_attn.q_proj.weight"), kStream);
}

TEST(Direction, TheSignsAtAnIndexAreFixedForEver) {
  std::vector<int> signs;
  for (const uint64_t i : kIndices) {
    signs.push_back(static_cast<int>(DirectionAt({Distribution::kRademacher, kSeed, kStream}, i)));
  }
  EXPECT_THAT(signs, ElementsAre(1, 1, 1, 1, -1, 1, 1, -1, 1, -1));
}

TEST(Direction, TheNormalsAtAnIndexAreFixedForEver) {
  std::vector<int> units;
  for (const uint64_t i : kIndices) {
    units.push_back(static_cast<int>(DirectionAt({Distribution::kNormal, kSeed, kStream}, i) * 0x1p13F));
  }
  EXPECT_THAT(units, ElementsAre(19212, -9729, -24978, -1728, 6836, -2317, -4652, -480, -6764, 10252));
}

class DirectionPath : public ::testing::TestWithParam<Path> {};
INSTANTIATE_TEST_SUITE_P(All, DirectionPath, ::testing::ValuesIn(SupportedPaths()), [](const auto& info) {
  std::string name(PathName(info.param));
  std::erase(name, '-');
  return name;
});

TEST_P(DirectionPath, TenThousandElementsHaveTheDigestOfTheDefinition) {
  std::vector<float> z(10'000);
  FillDirection({Distribution::kRademacher, kSeed, kStream}, 0, z, GetParam());
  std::string bits;
  for (const float sign : z) bits.push_back(sign < 0 ? '\1' : '\0');
  EXPECT_EQ(Sha256(bits).ToHex(), "5a841b5882be7fc9326d69dc428d14c8722161efb2d2e37385d5d2f8868da059");
  FillDirection({Distribution::kNormal, kSeed, kStream}, 0, z, GetParam());
  EXPECT_EQ(Sha256(std::as_bytes(std::span(z))).ToHex(),
            "d90357f5c2f8e11db6608fa1b5977f1a7c5ec6e86085fca115d0619ee3ae32a5");
}

TEST_P(DirectionPath, AMillionElementsHaveTheDigestOfTheDefinitionWithOneThreadAndWithSixteen) {
  constexpr size_t kCount = 1'000'000;
  for (const size_t threads : {1, 16}) {
    const auto fill = [&](Distribution distribution) {
      std::vector<float> z(kCount);
      const size_t share = (kCount + threads - 1) / threads;
      std::vector<std::jthread> others;
      for (size_t first = 0; first < kCount; first += share) {
        const std::span<float> slice = std::span(z).subspan(first, std::min(share, kCount - first));
        others.emplace_back([slice, distribution, first] {
          FillDirection({distribution, kSeed, kStream}, first, slice, GetParam());
        });
      }
      others.clear();  // joins
      return z;
    };
    std::string bits;
    const std::vector<float> signs = fill(Distribution::kRademacher), normals = fill(Distribution::kNormal);
    for (const float sign : signs) bits.push_back(sign < 0 ? '\1' : '\0');
    EXPECT_EQ(Sha256(bits).ToHex(), "0028f02f743b3df06d88a9af1ec3ca4f4d51d6f2801e0bc8687966f5f2c0058d") << threads;
    EXPECT_EQ(Sha256(std::as_bytes(std::span(normals))).ToHex(),
              "5075f05d214e7740028c3b267c696a047d3e3c4b6f2aaf59f25f5247c0960633")
        << threads;
  }
}

TEST_P(DirectionPath, AnySliceHasTheElementsOfTheDefinition) {
  PhiloxStream random(3);
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    for (int round = 0; round < 200; ++round) {
      const Direction direction{distribution, random.NextU32() * uint64_t{77'777'777'777}, random.NextU32()};
      const bool far = random.NextBelow(4) == 0;  // where the block number needs its upper word
      const uint64_t first = random.NextBelow(10'000) + (far ? (uint64_t{1} << 36) - 5'000 : 0);
      std::vector<float> z(random.NextBelow(9'000));
      FillDirection(direction, first, z, GetParam());
      for (size_t i = 0; i < z.size(); i += 1 + random.NextBelow(90)) {
        ASSERT_EQ(z[i], DirectionAt(direction, first + i)) << "element " << i << " from " << first;
      }
    }
  }
}

TEST_P(DirectionPath, AddingRoundsTheProductAndThenTheSum) {
  PhiloxStream random(4);
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    const Direction direction{distribution, 9, 8};
    std::vector<float> weights(5'003);
    for (float& w : weights) w = random.NextUniform() - 0.5F;
    const std::vector<float> before = weights;
    const float scale = 0.00123F;
    AddDirection(direction, 17, scale, weights, GetParam());
    for (size_t i = 0; i < weights.size(); ++i) {
      // Through memory, so that nothing is fused.
      volatile float product = scale * DirectionAt(direction, 17 + i);
      volatile float sum = before[i] + product;
      ASSERT_EQ(weights[i], sum) << i;
    }
  }
}

TEST_P(DirectionPath, ManyStepsInOnePassHaveTheBitsOfOneStepAfterTheOther) {
  PhiloxStream random(5);
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    std::vector<Step> steps;
    for (int i = 0; i < 50; ++i) steps.push_back({random.NextU32(), 0.01F * (random.NextUniform() - 0.5F)});
    std::vector<float> at_once(20'011);
    for (float& w : at_once) w = random.NextUniform() - 0.5F;
    std::vector<float> in_turn = at_once;
    AddDirections(distribution, 6, steps, 1'000, at_once, GetParam());
    for (const Step& step : steps)
      AddDirection({distribution, step.seed, 6}, 1'000, step.scale, in_turn, Path::kScalar);
    EXPECT_EQ(std::memcmp(at_once.data(), in_turn.data(), at_once.size() * sizeof(float)), 0);
  }
}

struct Moments {
  double mean = 0, second = 0, fourth = 0;
};
Moments MomentsOf(std::span<const float> z) {
  Moments m;
  for (const float x : z) {
    const double square = double{x} * x;
    m.mean += x;
    m.second += square;
    m.fourth += square * square;
  }
  const auto n = static_cast<double>(z.size());
  return {m.mean / n, m.second / n, m.fourth / n};
}

TEST(Direction, ASampleOfTheNormalHasTheMomentsOfANormal) {
  std::vector<float> sample(1 << 22);
  FillDirection({Distribution::kNormal, 1, 2}, 0, sample);
  const Moments m = MomentsOf(sample);
  const double root = std::sqrt(static_cast<double>(sample.size()));
  // Five standard deviations of each estimate for a true normal; the direction is fixed, so this never flickers.
  EXPECT_NEAR(m.mean, 0, 5 / root);
  EXPECT_NEAR(m.second, 1, 5 * std::sqrt(2.0) / root);
  EXPECT_NEAR(m.fourth, 3, 5 * std::sqrt(96.0) / root);
  EXPECT_LE(*std::max_element(sample.begin(), sample.end()), 5.12F);
}

// The true distribution of the sum, from the table: how often each value comes out of all 64^4 choices.
TEST(Direction, TheNormalHasTheMomentsAndTheDistributionOfANormal) {
  std::map<int32_t, double> sums = {{0, 1.0}};
  for (int term = 0; term < 4; ++term) {
    std::map<int32_t, double> more;
    for (const auto& [sum, chance] : sums) {
      for (const int16_t entry : kNormalTable) {
        more[sum + entry] += chance / 64;
        more[sum - entry] += chance / 64;
      }
    }
    sums = std::move(more);
  }
  double mean = 0, second = 0, fourth = 0, below = 0, farthest = 0;
  for (const auto& [sum, chance] : sums) {
    const double z = sum * 0x1p-13;
    mean += chance * z;
    second += chance * z * z;
    fourth += chance * z * z * z * z;
    const double normal = 0.5 * std::erfc(-z / std::sqrt(2.0));
    farthest = std::max({farthest, std::abs(normal - below), std::abs(normal - below - chance)});
    below += chance;
  }
  EXPECT_NEAR(below, 1, 1e-9);
  EXPECT_NEAR(mean, 0, 1e-9);
  EXPECT_NEAR(second, 1, 1e-3);
  EXPECT_NEAR(fourth, 3, 1e-3);
  EXPECT_LE(farthest, 5e-4);
}

TEST(Direction, TheSignsAreEvenAndTheirFourthMomentIsOne) {
  std::vector<float> sample(1 << 22);
  FillDirection({Distribution::kRademacher, 1, 2}, 0, sample);
  const Moments m = MomentsOf(sample);
  EXPECT_NEAR(m.mean, 0, 5 / std::sqrt(static_cast<double>(sample.size())));
  EXPECT_EQ(m.second, 1);
  EXPECT_EQ(m.fourth, 1);
}

// Correlation of neighbours, of seeds that differ by one, of streams that differ by one, and of both distributions.
TEST(Direction, NeighboursSeedsAndStreamsDoNotCorrelate) {
  constexpr size_t kCount = 1 << 20;
  const double bound = 5 / std::sqrt(static_cast<double>(kCount));
  const auto product = [](std::span<const float> a, std::span<const float> b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / static_cast<double>(a.size());
  };
  for (const Distribution distribution : {Distribution::kRademacher, Distribution::kNormal}) {
    std::vector<float> z(kCount + 64), other(kCount);
    FillDirection({distribution, 10, 20}, 0, z);
    const std::span<const float> head = std::span(z).first(kCount);
    for (const size_t lag : {1, 2, 16, 32, 64}) {
      EXPECT_NEAR(product(head, std::span(z).subspan(lag, kCount)), 0, bound) << "lag " << lag;
    }
    for (const Direction& d : {Direction{distribution, 11, 20}, Direction{distribution, 10, 21},
                               Direction{distribution, 10 + (uint64_t{1} << 32), 20}}) {
      FillDirection(d, 0, other);
      EXPECT_NEAR(product(head, other), 0, bound) << "seed " << d.seed << " stream " << d.stream;
    }
  }
}

}  // namespace
}  // namespace heddle::zo
