// Splits over simulated devices: what every method promises, and for each what makes it this method, against sums done
// here and against the moments of the distributions.
#include "simulator/partition/partition.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "simulator/partition/clusters.h"
#include "simulator/partition/draws.h"

namespace heddle::simulator {
namespace {

using Parts = std::vector<std::vector<int64_t>>;

// Examples whose labels come in the given numbers, mixed up; each of `groups` examples in a row is one group's.
PartitionInput Input(const std::vector<int64_t>& of_label, int64_t group_size = 7) {
  PartitionInput input;
  input.num_labels = static_cast<int32_t>(of_label.size());
  for (size_t label = 0; label < of_label.size(); ++label) {
    input.labels.insert(input.labels.end(), static_cast<size_t>(of_label[label]), static_cast<int32_t>(label));
  }
  input.num_examples = static_cast<int64_t>(input.labels.size());
  PhiloxStream stream(7);
  std::vector<int32_t> mixed;
  for (const int64_t i : DrawOrder(input.num_examples, stream)) mixed.push_back(input.labels[static_cast<size_t>(i)]);
  input.labels = mixed;
  for (int64_t i = 0; i < input.num_examples; ++i) input.groups.push_back(static_cast<int32_t>(i / group_size));
  input.num_groups = input.groups.back() + 1;
  return input;
}

PartitionOptions Options(const std::string& method, int64_t devices, double alpha = 1, uint64_t seed = 1) {
  PartitionOptions options;
  options.method = method;
  options.num_devices = devices;
  options.alpha = alpha;
  options.seed = seed;
  return options;
}

Parts Split(const PartitionInput& input, const PartitionOptions& options) {
  auto parts = Partition(input, options);
  EXPECT_TRUE(parts.ok()) << options.method << ": " << parts.status();
  return parts.ok() ? *parts : Parts();
}

std::vector<int64_t> CountLabels(const PartitionInput& input, const std::vector<int64_t>& part) {
  std::vector<int64_t> counts(static_cast<size_t>(input.num_labels), 0);
  for (const int64_t i : part) ++counts[static_cast<size_t>(input.labels[static_cast<size_t>(i)])];
  return counts;
}

TEST(Partition, EveryExampleIsOnOneDeviceAndEveryDeviceHasEnoughWhateverTheMethodAndAlpha) {
  const PartitionInput input = Input({301, 95, 4, 200, 0});
  for (const std::string& method : PartitionNames()) {
    for (const double alpha : {1e-6, 0.1, 1.0, 1e6}) {
      for (const int64_t devices : {1, 7, 60}) {
        PartitionOptions options = Options(method, devices, alpha);
        options.min_examples = 5;
        options.labels_per_device = devices == 1 ? 5 : 2;
        const Parts parts = Split(input, options);
        ASSERT_EQ(parts.size(), static_cast<size_t>(devices));
        std::vector<int> seen(static_cast<size_t>(input.num_examples), 0);
        for (const auto& part : parts) {
          EXPECT_GE(part.size(), 5U) << method << " " << alpha << " " << devices;
          EXPECT_TRUE(std::is_sorted(part.begin(), part.end()));
          for (const int64_t i : part) ++seen[static_cast<size_t>(i)];
        }
        EXPECT_EQ(seen, std::vector<int>(seen.size(), 1)) << method << " " << alpha << " " << devices;
      }
    }
  }
}

TEST(Partition, DependsOnTheSeedAndOnNothingElse) {
  const PartitionInput input = Input({100, 100, 100});
  for (const std::string& method : PartitionNames()) {
    const Parts one = Split(input, Options(method, 10, 0.3, 1));
    EXPECT_EQ(Split(input, Options(method, 10, 0.3, 1)), one) << method;
    if (method != "natural") {
      EXPECT_NE(Split(input, Options(method, 10, 0.3, 2)), one) << method;
    }
  }
}

// The bits of a split must be those of every other machine: one was written down.
TEST(Partition, IsTheSameOnEveryMachine) {
  const PartitionInput input = Input({40, 40});
  std::vector<size_t> sizes;
  for (const auto& part : Split(input, Options("dirichlet_classes", 5, 0.5, 3))) sizes.push_back(part.size());
  EXPECT_EQ(sizes, (std::vector<size_t>{8, 2, 6, 52, 12}));
  int64_t mixed = 0;
  for (const auto& part : Split(input, Options("dirichlet", 5, 0.5, 3))) {
    for (const int64_t i : part) mixed = (mixed * 31 + i) % 1'000'003;
    mixed = (mixed * 31 + 77) % 1'000'003;
  }
  EXPECT_EQ(mixed, 52565);
}

TEST(Partition, UniformSharesAreEqual) {
  const PartitionInput input = Input({60, 43});
  std::multiset<size_t> sizes;
  for (const auto& part : Split(input, Options("uniform", 10))) sizes.insert(part.size());
  EXPECT_EQ(sizes.count(10), 7U);
  EXPECT_EQ(sizes.count(11), 3U);
}

// Of Dirichlet(alpha p): the mean of a share is p, its variance p (1 - p) / (alpha + 1). Devices that drew before a
// label was used up are looked at.
TEST(Partition, DirichletMixesHaveTheMomentsOfTheirDistribution) {
  const double p[] = {0.5, 0.3, 0.2};
  const int64_t per_device = 100, total = 40'000;
  const PartitionInput input = Input({total / 2, total * 3 / 10, total / 5});
  for (const double alpha : {0.1, 1.0, 20.0}) {
    double sum[3] = {}, square[3] = {};
    int64_t devices = 0;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      const Parts parts = Split(input, Options("dirichlet", total / per_device, alpha, seed));
      for (size_t d = 0; d < parts.size() / 2; ++d, ++devices) {
        ASSERT_EQ(parts[d].size(), static_cast<size_t>(per_device));
        const auto counts = CountLabels(input, parts[d]);
        for (size_t label = 0; label < 3; ++label) {
          const double share = static_cast<double>(counts[label]) / per_device;
          sum[label] += share;
          square[label] += share * share;
        }
      }
    }
    const auto n = static_cast<double>(devices);
    for (size_t label = 0; label < 3; ++label) {
      const double mean = sum[label] / n, variance = square[label] / n - mean * mean;
      // Drawing 100 examples from a mix adds p (1 - p) / 100 x alpha / (alpha + 1).
      const double expected = p[label] * (1 - p[label]) * (1 + alpha / per_device) / (alpha + 1);
      const double error = 4 * std::sqrt(expected / n);
      EXPECT_NEAR(mean, p[label], error) << "alpha " << alpha << ", label " << label;
      EXPECT_NEAR(variance, expected, 0.12 * expected) << "alpha " << alpha << ", label " << label;
    }
  }
}

TEST(Partition, AlphaGoesFromOneLabelADeviceToTheSameMixEverywhere) {
  const PartitionInput input = Input({1000, 1000, 1000, 1000});
  const auto largest_share = [&](const Parts& parts) {
    double sum = 0;
    for (const auto& part : parts) {
      const auto counts = CountLabels(input, part);
      sum += static_cast<double>(*std::max_element(counts.begin(), counts.end())) / static_cast<double>(part.size());
    }
    return sum / static_cast<double>(parts.size());
  };
  EXPECT_GT(largest_share(Split(input, Options("dirichlet", 40, 1e-4))), 0.95);
  EXPECT_LT(largest_share(Split(input, Options("dirichlet", 40, 1e5))), 0.40);
  EXPECT_GT(largest_share(Split(input, Options("dirichlet", 40, 0.1))),
            largest_share(Split(input, Options("dirichlet", 40, 1.0))));
}

TEST(Partition, DirichletClassesDividesEachLabelByItsOwnDraw) {
  const PartitionInput input = Input({3000, 2000});
  const Parts parts = Split(input, Options("dirichlet_classes", 8, 0.5, 5));
  for (size_t label = 0; label < 2; ++label) {
    PhiloxStream stream(DeriveSeed(5, "partition", "shares"), label);
    const std::vector<double> shares = DrawDirichlet(std::vector<double>(8, 0.5), stream);
    int64_t sum = 0;
    for (size_t d = 0; d < 8; ++d) {
      const int64_t count = CountLabels(input, parts[d])[label];
      EXPECT_NEAR(static_cast<double>(count), shares[d] * (label == 0 ? 3000 : 2000), 2.0);
      sum += count;
    }
    EXPECT_EQ(sum, label == 0 ? 3000 : 2000);
  }
}

TEST(Partition, QuantityMakesSizesDifferAndLeavesTheMixAlone) {
  const PartitionInput input = Input({6000, 2000});
  const Parts parts = Split(input, Options("quantity", 10, 0.5));
  size_t least = input.labels.size(), most = 0;
  for (const auto& part : parts) {
    least = std::min(least, part.size());
    most = std::max(most, part.size());
    if (part.size() < 200) continue;
    const double share = static_cast<double>(CountLabels(input, part)[0]) / static_cast<double>(part.size());
    EXPECT_NEAR(share, 0.75, 4 * std::sqrt(0.75 * 0.25 / static_cast<double>(part.size())));
  }
  EXPECT_GT(most, 5 * least);
}

TEST(Partition, ADeviceHasSoManyLabelsAndEveryLabelIsSomewhere) {
  const PartitionInput input = Input({500, 500, 500, 500, 500});
  for (const int64_t each : {1, 2, 5}) {
    PartitionOptions options = Options("label", 20);
    options.labels_per_device = each;
    std::map<size_t, int64_t> examples;
    for (const auto& part : Split(input, options)) {
      const auto counts = CountLabels(input, part);
      EXPECT_EQ(std::count_if(counts.begin(), counts.end(), [](int64_t n) { return n > 0; }), each);
      for (size_t label = 0; label < counts.size(); ++label) examples[label] += counts[label];
    }
    for (const auto& [label, count] : examples) EXPECT_EQ(count, 500) << label;
  }
}

TEST(Partition, GroupsStayTogetherAndDevicesAreAboutEquallyLarge) {
  const PartitionInput input = Input({400, 300}, 9);
  const Parts parts = Split(input, Options("natural", 12));
  std::map<int32_t, std::set<size_t>> devices_of;
  size_t least = 1000, most = 0;
  for (size_t d = 0; d < parts.size(); ++d) {
    least = std::min(least, parts[d].size());
    most = std::max(most, parts[d].size());
    for (const int64_t i : parts[d]) devices_of[input.groups[static_cast<size_t>(i)]].insert(d);
  }
  EXPECT_EQ(devices_of.size(), static_cast<size_t>(input.num_groups));
  for (const auto& [group, devices] : devices_of) EXPECT_EQ(devices.size(), 1U) << group;
  EXPECT_LE(most - least, 9U);
}

TEST(Partition, WhatCannotBeSplitIsRefusedWithAReason) {
  const PartitionInput input = Input({20, 20});
  const auto error = [](const PartitionInput& of, const PartitionOptions& options) {
    const auto parts = Partition(of, options);
    EXPECT_FALSE(parts.ok());
    EXPECT_EQ(parts.status().code(), Code::kInvalidArgument);
    return parts.ok() ? std::string() : parts.status().message();
  };
  EXPECT_NE(error(input, Options("dirichlett", 2)).find("did you mean 'dirichlet'"), std::string::npos);
  EXPECT_NE(error(input, Options("uniform", 41)).find("too few"), std::string::npos);
  EXPECT_NE(error(input, Options("uniform", 0)).find("at least one device"), std::string::npos);
  EXPECT_NE(error(input, Options("dirichlet", 2, 0)).find("alpha"), std::string::npos);
  EXPECT_NE(error(input, Options("dirichlet", 2, NAN)).find("alpha"), std::string::npos);
  PartitionOptions many = Options("uniform", 4);
  many.min_examples = 11;
  EXPECT_NE(error(input, many).find("min_examples"), std::string::npos);
  PartitionOptions three = Options("label", 4);
  three.labels_per_device = 3;
  EXPECT_NE(error(input, three).find("there are 2 labels"), std::string::npos);
  EXPECT_NE(error(input, Options("label", 1)).find("cannot hold 2 labels"), std::string::npos);
  EXPECT_NE(error(input, Options("natural", 10)).find("6 groups"), std::string::npos);
  PartitionOptions groups = Options("natural", 6);
  groups.min_examples = 6;
  EXPECT_NE(error(input, groups).find("below min_examples"), std::string::npos);
  PartitionInput bare;
  bare.num_examples = 40;
  EXPECT_NE(error(bare, Options("dirichlet", 2)).find("needs labels"), std::string::npos);
  EXPECT_NE(error(bare, Options("natural", 2)).find("needs groups"), std::string::npos);
}

TEST(Draws, LogarithmAndExponentialAreThoseOfTheLibrary) {
  PhiloxStream stream(11);
  for (int i = 0; i < 20'000; ++i) {
    const double x = std::ldexp(OpenUniform(stream) + 0.5, static_cast<int>(stream.NextBelow(400)) - 200);
    EXPECT_NEAR(PortableLog(x), std::log(x), 1e-14 * std::max(1.0, std::fabs(std::log(x))));
    const double y = -700 * OpenUniform(stream);
    EXPECT_NEAR(PortableExp(y) / std::exp(y), 1, 1e-13);
  }
  EXPECT_EQ(PortableLog(1), 0);
  EXPECT_EQ(PortableExp(0), 1);
  EXPECT_EQ(PortableExp(-1e300), 0);
}

TEST(Draws, DirichletSharesSumToOneHaveTheRightMeansAndSurviveExtremes) {
  PhiloxStream stream(5);
  double sum[3] = {}, square = 0;
  const int draws = 20'000;
  for (int i = 0; i < draws; ++i) {
    const auto shares = DrawDirichlet({0.2, 0.8, 3.0}, stream);
    EXPECT_NEAR(shares[0] + shares[1] + shares[2], 1, 1e-14);
    for (size_t k = 0; k < 3; ++k) sum[k] += shares[k] / draws;
    square += shares[1] * shares[1] / draws;
  }
  EXPECT_NEAR(sum[0], 0.05, 0.005);
  EXPECT_NEAR(sum[1], 0.2, 0.01);
  EXPECT_NEAR(sum[2], 0.75, 0.01);
  EXPECT_NEAR(square - sum[1] * sum[1], 0.2 * 0.8 / 5, 0.002);
  for (const double alpha : {1e-300, 1e-9, 1e9}) {
    const auto shares = DrawDirichlet(std::vector<double>(50, alpha), stream);
    double total = 0;
    for (const double share : shares) {
      EXPECT_TRUE(share >= 0 && share <= 1) << alpha;
      total += share;
    }
    EXPECT_NEAR(total, 1, 1e-12) << alpha;
  }
}

TEST(Draws, WholeNumbersAreAsNearToTheSharesAsTheyCanBe) {
  EXPECT_EQ(Apportion(10, {0.5, 0.5}), (std::vector<int64_t>{5, 5}));
  EXPECT_EQ(Apportion(10, {0.33, 0.33, 0.34}), (std::vector<int64_t>{3, 3, 4}));
  EXPECT_EQ(Apportion(3, {0.25, 0.25, 0.25, 0.25}), (std::vector<int64_t>{1, 1, 1, 0}));
  EXPECT_EQ(Apportion(0, {1.0}), (std::vector<int64_t>{0}));
  EXPECT_EQ(Apportion(7, {1.0, 0.0}), (std::vector<int64_t>{7, 0}));
}

TEST(Clusters, LikeTextsComeTogether) {
  const char* const kWords[] = {"goal match team referee", "bond yield market share", "planet orbit rocket moon"};
  const auto text = [&](int64_t i) -> Result<std::string> {
    std::string words;
    for (int64_t n = 0; n < 1 + i % 4; ++n) words += std::string(kWords[i % 3]) + (n % 2 == 0 ? " the " : ", Of ");
    return words;
  };
  const auto clusters = ClusterTexts(90, 3, 1, text);
  ASSERT_TRUE(clusters.ok()) << clusters.status();
  for (size_t i = 3; i < 90; ++i) EXPECT_EQ((*clusters)[i], (*clusters)[i % 3]) << i;
  EXPECT_EQ(std::set<int32_t>(clusters->begin(), clusters->end()).size(), 3U);
  EXPECT_EQ(*ClusterTexts(90, 3, 1, text), *clusters);
  EXPECT_EQ(TextFeatures("Goal, MATCH"), TextFeatures("match goal"));
  EXPECT_FALSE(ClusterTexts(2, 3, 1, text).ok());
  EXPECT_FALSE(ClusterTexts(2, 1, 1, [](int64_t) -> Result<std::string> { return Internal("broken"); }).ok());
}

}  // namespace
}  // namespace heddle::simulator
