// Clipping and noise of updates, against float64 by brute force and by statistics.
#include "aggregation/privacy/update_privacy.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "common/digest.h"
#include "common/normals.h"
#include "common/random.h"

namespace heddle::privacy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kSecret = TaskSecret("device", "plan");

// Values of that size on average, from a seed; odd numbers of them too.
StateDict Update(float size, uint64_t seed = 1, const std::map<std::string, int64_t>& tensors = {{"a", 5}, {"b", 8}}) {
  StateDict out;
  for (const auto& [name, count] : tensors) {
    const PhiloxStream random(DeriveSeed(seed, "update", name));
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = size * (2 * random.UniformAt(i) - 1);
    out.emplace(name, Tensor::FromFloats({count}, values));
  }
  return out;
}

std::vector<double> Values(const StateDict& update) {
  std::vector<double> out;
  for (const auto& [name, tensor] : update) {
    for (const float value : tensor.values<float>()) out.push_back(value);
  }
  return out;
}

double Norm(const std::vector<double>& values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares);
}

StateDict Private(const StateDict& update, const UpdatePrivacy& how, const std::string& secret = kSecret) {
  auto out = MakePrivate(update, how, secret);
  EXPECT_TRUE(out.ok()) << out.status();
  return out.ok() ? *out : StateDict();
}

// What was added, in units of its deviation.
std::vector<double> NoiseOf(const StateDict& update, const UpdatePrivacy& how, const std::string& secret = kSecret) {
  const std::vector<double> before = Values(update), after = Values(Private(update, how, secret));
  const double factor = std::min(1.0, how.clip / Norm(before));
  std::vector<double> out;
  for (size_t i = 0; i < before.size(); ++i) out.push_back((after[i] - factor * before[i]) / how.deviation());
  return out;
}

double Correlation(const std::vector<double>& a, const std::vector<double>& b) {
  double both = 0;
  for (size_t i = 0; i < a.size(); ++i) both += a[i] * b[i];
  return both / (Norm(a) * Norm(b));
}

TEST(UpdatePrivacy, ClipsAllTensorsTogetherByOneFactor) {
  const StateDict update = Update(3);
  const std::vector<double> before = Values(update), after = Values(Private(update, {.clip = 0.25}));
  const double factor = 0.25 / Norm(before);
  ASSERT_LT(factor, 1);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i], static_cast<double>(static_cast<float>(before[i] * factor)));
  }
  EXPECT_NEAR(Norm(after), 0.25, 1e-7);
  EXPECT_EQ(SpecOf(Private(update, {.clip = 0.25})), SpecOf(update));
}

TEST(UpdatePrivacy, LeavesWhatIsShortEnoughAsItIs) {
  const StateDict update = Update(1e-3F);
  EXPECT_EQ(Values(Private(update, {.clip = 1})), Values(update));
  EXPECT_EQ(Values(Private(update, {})), Values(update)) << "nothing is asked for";
}

TEST(UpdatePrivacy, NoiseIsNormalAndIndependentFromNumberToNumberAndTensorToTensor) {
  const int64_t n = (1 << 17) + 1;  // of each tensor
  const UpdatePrivacy how{.clip = 0.5, .noise_multiplier = 3};
  for (const float size : {0.0F, 1.0F}) {  // of an update that is short, and of one that is clipped
    const std::vector<double> z = NoiseOf(Update(size, 1, {{"a", n}, {"b", n}}), how);
    const auto count = static_cast<double>(z.size());
    std::array<double, 4> moments{};
    for (const double value : z) {
      for (size_t k = 0; k < 4; ++k) moments[k] += std::pow(value, static_cast<double>(k + 1)) / count;
    }
    // Five standard errors each; the seed is fixed.
    const double root = std::sqrt(count);
    EXPECT_NEAR(moments[0], 0, 5 / root);
    EXPECT_NEAR(moments[1], 1, 5 * std::sqrt(2.0) / root);
    EXPECT_NEAR(moments[2], 0, 5 * std::sqrt(15.0) / root);
    EXPECT_NEAR(moments[3], 3, 5 * std::sqrt(96.0) / root);
    const std::vector<double> first(z.begin(), z.begin() + n), second(z.begin() + n, z.end());
    EXPECT_NEAR(Correlation(first, second), 0, 5 / std::sqrt(static_cast<double>(n)));
    for (const ptrdiff_t lag : {1, 2, 3, 4}) {
      const std::vector<double> early(z.begin(), z.end() - lag), late(z.begin() + lag, z.end());
      EXPECT_NEAR(Correlation(early, late), 0, 5 / root) << lag;
    }
    for (const double at : {-2.0, -0.5, 0.0, 1.0, 3.0}) {
      const double expected = 0.5 * std::erfc(-at / std::sqrt(2.0));
      const auto below = static_cast<double>(std::count_if(z.begin(), z.end(), [&](double v) { return v <= at; }));
      EXPECT_NEAR(below / count, expected, 5 * std::sqrt(expected * (1 - expected)) / root + 1e-6) << at;
    }
  }
}

TEST(UpdatePrivacy, WhatIsSentIsTheClippedUpdateAndItsNoiseOnAGrid) {
  const UpdatePrivacy how{.clip = 0.5, .noise_multiplier = 3};  // a deviation of 1.5: the grid is 2^-20
  const StateDict update = Update(2);
  // The definition, by hand.
  std::string content = kSecret + "\nclip:0.5\nnoise:3\n";
  for (const auto& [name, tensor] : update) {
    content += name + " F32 [" + std::to_string(tensor.numel()) + "]\n";
    content.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
  }
  const std::string key = Sha256(content).ToHex();
  const double factor = 0.5 / Norm(Values(update));
  const StateDict sent = Private(update, how);
  for (const auto& [name, tensor] : update) {
    const PhiloxStream random(DeriveSeed(0, "update noise", key),
                              DeriveSeed(0, "update noise stream", key + "/" + name));
    for (size_t i = 0; i < static_cast<size_t>(tensor.numel()); ++i) {
      const double exact = factor * tensor.values<float>()[i] + 1.5 * NormalPairAt(random, i / 2)[i % 2];
      const double value = sent.at(name).values<float>()[i];
      EXPECT_NEAR(value, exact, 0x1p-21 + 1e-15);
      EXPECT_EQ(value, std::round(value * 0x1p20) * 0x1p-20);
    }
  }
}

TEST(UpdatePrivacy, TheSameUpdateOfTheSameTaskIsTheSameBytes) {
  const UpdatePrivacy how{.clip = 0.5, .noise_multiplier = 1};
  EXPECT_EQ(Values(Private(Update(2), how)), Values(Private(Update(2), how)));
}

TEST(UpdatePrivacy, NothingElseSharesItsNoise) {
  const int64_t n = 4096;
  const std::map<std::string, int64_t> tensors = {{"a", n}};
  const UpdatePrivacy how{.clip = 0.5, .noise_multiplier = 1};
  const StateDict update = Update(2, 1, tensors);
  std::vector<float> moved(update.at("a").values<float>().begin(), update.at("a").values<float>().end());
  moved[7] = std::nextafter(moved[7], 10.0F);
  const StateDict other = {{"a", Tensor::FromFloats({n}, moved)}}, renamed = {{"b", update.at("a")}},
                  shaped = {{"a", Tensor({DType::kF32, {n / 2, 2}}, update.at("a").bytes(), update.at("a").owner())}};
  const std::vector<double> noise = NoiseOf(update, how);
  const std::map<std::string, std::vector<double>> others = {
      {"another device", NoiseOf(update, how, TaskSecret("phone", "plan"))},
      {"another task", NoiseOf(update, how, TaskSecret("device", "plan 2"))},
      // Two such releases of one update would give it away: two equations for two unknowns.
      {"more noise", NoiseOf(update, {.clip = 0.5, .noise_multiplier = 2})},
      {"another bound", NoiseOf(update, {.clip = 0.25, .noise_multiplier = 1})},
      {"the last bit of one value", NoiseOf(other, how)},
      {"another name", NoiseOf(renamed, how)},
      {"another shape", NoiseOf(shaped, how)}};
  for (const auto& [what, theirs] : others) {
    EXPECT_NEAR(Correlation(noise, theirs), 0, 5 / std::sqrt(static_cast<double>(n))) << what;
  }
}

TEST(UpdatePrivacy, ATasksSecretIsItsOwn) {
  std::set<std::string> all;
  for (const char* device : {"a", "b"}) {
    for (const char* plan : {"", "1", "2"}) all.insert(TaskSecret(device, plan));
  }
  EXPECT_EQ(all.size(), 6U);
  for (const std::string& secret : all) EXPECT_EQ(secret.size(), 64U);
}

TEST(UpdatePrivacy, RefusesWhatItCannotClipOrNoise) {
  const UpdatePrivacy how{.clip = 0.5, .noise_multiplier = 1};
  const auto without = MakePrivate(Update(1), how, "");
  EXPECT_EQ(without.status().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(MakePrivate(Update(1), {.clip = 0.5}, "").ok()) << "clipping needs no secret";
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const StateDict update = {{"a", Tensor::FromFloats({2}, std::vector<float>{1, bad})}};
    EXPECT_EQ(MakePrivate(update, {.clip = 0.5}, "").status().code(), Code::kInternal);
  }
  const StateDict counts = {{"n", Tensor({DType::kI32, {0}}, {}, nullptr)}};
  const auto refused = MakePrivate(counts, how, kSecret);
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("n is I32 [0]"));
}

TEST(PlannedUpload, ItsWordsAreReadAsTheyAreWritten) {
  for (const UpdatePrivacy how : {UpdatePrivacy{.clip = 0.1, .noise_multiplier = 1.0 / 3}, UpdatePrivacy{.clip = 7},
                                  UpdatePrivacy{.clip = kMaxClip, .noise_multiplier = kMinNoise}}) {
    std::vector<std::string> words = how.Words();
    words.emplace_back("int8");
    const auto planned = ParseUpload(words);
    ASSERT_TRUE(planned.ok()) << planned.status();
    EXPECT_EQ(planned->privacy, how);
    EXPECT_THAT(planned->rest, ElementsAre("int8"));
  }
  EXPECT_THAT(UpdatePrivacy().Words(), IsEmpty());
  EXPECT_FALSE(ParseUpload({})->privacy.on());
}

TEST(PlannedUpload, NumbersThatAreNoneAndOutOfRangeAreRefused) {
  for (const char* word : {"clip:", "clip:x", "clip:1x", "clip:nan", "clip:inf", "clip:0", "clip:-1", "clip:1e10"}) {
    const auto planned = ParseUpload(std::vector<std::string>{word});
    EXPECT_EQ(planned.status().code(), Code::kInvalidArgument) << word;
    EXPECT_THAT(planned.status().message(), HasSubstr(word));
  }
  for (const char* word : {"noise:0", "noise:1e-4", "noise:1e7", "noise:"}) {
    EXPECT_FALSE(ParseUpload(std::vector<std::string>{"clip:1", word}).ok()) << word;
  }
  // In another place they are words that nobody knows: whoever makes the update smaller refuses them.
  EXPECT_THAT(ParseUpload(std::vector<std::string>{"int8", "clip:1"})->rest, ElementsAre("int8", "clip:1"));
  EXPECT_THAT(ParseUpload(std::vector<std::string>{"noise:1"})->rest, ElementsAre("noise:1"));
}

}  // namespace
}  // namespace heddle::privacy
