// What a device does to what it sends, against independent computations in double, by statistics, and in whole runs.
#include "peft/split/privacy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "model/weights/base_weights.h"
#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

using torch::Tensor;

Tensor Numbers(std::vector<double> values, at::IntArrayRef sizes) {
  return torch::tensor(values, torch::kFloat64).reshape(sizes);
}

TEST(ClipSamples, ScalesWhatIsLongerAndLeavesTheRest) {
  // Rows of norms 5, 0.5 and 0.
  const Tensor x = Numbers({3, 0, 0, 4, 0.3, 0.4, 0, 0, 0, 0, 0, 0}, {3, 2, 2});
  const Tensor clipped = peft::ClipSamples(x, {}, 1.0);
  EXPECT_TRUE(torch::allclose(clipped, Numbers({0.6, 0, 0, 0.8, 0.3, 0.4, 0, 0, 0, 0, 0, 0}, {3, 2, 2})));
  EXPECT_TRUE(torch::equal(clipped[1], x[1]));
}

TEST(ClipSamples, OfAPackedRowEachSequenceIsASample) {
  const Tensor x = Numbers({3, 4, 0.3, 0.4, 0, 0, 6, 8}, {1, 4, 2});
  const Tensor segments = torch::tensor({0, 1, 1, 2}, torch::kLong).reshape({1, 4});
  EXPECT_TRUE(
      torch::allclose(peft::ClipSamples(x, segments, 1.0), Numbers({0.6, 0.8, 0.3, 0.4, 0, 0, 0.6, 0.8}, {1, 4, 2})));
}

TEST(ClipSamples, ItsGradientIsThatOfFiniteDifferences) {
  torch::manual_seed(1);
  const Tensor weights = torch::randn({2, 3, 4}, torch::kFloat64), start = torch::randn({2, 3, 4}, torch::kFloat64);
  const double norm = 1.5 * start[1].norm().item<double>();  // the first may be clipped, the second is not
  const Tensor scaled = torch::cat({start.slice(0, 0, 1) * 10, start.slice(0, 1)});
  Tensor x = scaled.clone().requires_grad_(true);
  (peft::ClipSamples(x, {}, norm) * weights).sum().backward();
  for (int64_t i = 0; i < x.numel(); i += 5) {
    const auto at = [&](double step) {
      Tensor moved = scaled.clone();
      moved.view(-1)[i] += step;
      return (peft::ClipSamples(moved, {}, norm) * weights).sum().item<double>();
    };
    EXPECT_NEAR(x.grad().view(-1)[i].item<double>(), (at(1e-5) - at(-1e-5)) / 2e-5, 1e-6);
  }
}

TEST(CutNoise, IsNormalAndIndependentFromNumberToNumber) {
  const int64_t n = 1 << 20;
  const Tensor z = peft::StandardNormals({n}, 7, 9).to(torch::kFloat64);
  const double root = std::sqrt(static_cast<double>(n));
  // Five standard errors each; the seed is fixed.
  EXPECT_NEAR(z.mean().item<double>(), 0, 5 / root);
  EXPECT_NEAR(z.pow(2).mean().item<double>(), 1, 5 * std::sqrt(2.0) / root);
  EXPECT_NEAR(z.pow(3).mean().item<double>(), 0, 5 * std::sqrt(15.0) / root);
  EXPECT_NEAR(z.pow(4).mean().item<double>(), 3, 5 * std::sqrt(96.0) / root);
  for (const int64_t lag : {1, 2, 3, 4, 1024}) {
    EXPECT_NEAR((z.slice(0, lag) * z.slice(0, 0, n - lag)).mean().item<double>(), 0, 5 / root) << lag;
  }
  // The distribution function at some places, by erfc.
  for (const double at : {-3.0, -1.5, -0.5, 0.0, 0.25, 1.0, 2.0, 4.0}) {
    const double expected = 0.5 * std::erfc(-at / std::sqrt(2.0));
    const double seen = z.le(at).to(torch::kFloat64).mean().item<double>();
    EXPECT_NEAR(seen, expected, 5 * std::sqrt(expected * (1 - expected)) / root + 1e-7) << at;
  }
}

TEST(CutNoise, IsTheSameForTheSameActivationsAndForNoOthers) {
  const Tensor x = torch::ones({2, 3, 4});
  const auto noise = [](const Tensor& of, const char* secret, uint64_t session, uint32_t step, uint32_t micro) {
    return peft::AddCutNoise(of, 2.0, secret, session, step, micro) - of;
  };
  const Tensor first = noise(x, "a", 1, 2, 3);
  EXPECT_TRUE(torch::equal(first, noise(x.clone(), "a", 1, 2, 3)));
  Tensor other = x.clone();
  other[0][0][0] += 1e-6;
  for (const Tensor& z : {noise(x, "b", 1, 2, 3), noise(x, "a", 2, 2, 3), noise(x, "a", 1, 1, 3),
                          noise(x, "a", 1, 2, 0), noise(other, "a", 1, 2, 3)}) {
    EXPECT_GT((z - first).abs().min().item<double>(), 0);
  }
}

// Of n examples with distinct contents, which labels come out.
std::vector<double> Responses(int64_t label, int64_t labels, double epsilon, int64_t n, const char* secret = "s") {
  model::ModelInput input;
  input.ids = torch::arange(2 * n, torch::kLong).reshape({n, 2});
  const Tensor out = peft::RandomiseTargets(torch::full({n}, label, torch::kLong), labels, epsilon, secret, input);
  std::vector<double> shares;
  for (int64_t k = 0; k < labels; ++k) shares.push_back(out.eq(k).to(torch::kFloat64).mean().item<double>());
  return shares;
}

TEST(RandomisedLabels, KeepAndChangeAsOftenAsTheyShould) {
  const int64_t n = 40'000;
  for (const double epsilon : {0.5, 2.0}) {
    for (const int64_t labels : {2, 5}) {
      const double keep = std::exp(epsilon) / (std::exp(epsilon) + static_cast<double>(labels - 1));
      const double other = (1 - keep) / static_cast<double>(labels - 1);
      for (const int64_t label : {int64_t{0}, labels - 1}) {
        const auto shares = Responses(label, labels, epsilon, n);
        for (int64_t k = 0; k < labels; ++k) {
          const double expected = k == label ? keep : other;
          EXPECT_NEAR(shares[static_cast<size_t>(k)], expected,
                      5 * std::sqrt(expected * (1 - expected) / static_cast<double>(n)));
        }
        // What epsilon means: no answer is more than e^epsilon times as likely for one label as for another.
        EXPECT_NEAR(keep / other, std::exp(epsilon), 1e-9);
      }
    }
  }
}

TEST(RandomisedLabels, AnExampleHasTheSameEachTimeWhateverItsPaddingAndWhatIsIgnoredStays) {
  model::ModelInput one, padded;
  one.ids = torch::tensor({5, 6, 7}, torch::kLong).reshape({1, 3}).repeat({50, 1});
  one.ids.select(1, 0).copy_(torch::arange(50));
  padded.ids = torch::cat({one.ids, torch::zeros({50, 4}, torch::kLong)}, 1);
  padded.mask = torch::cat({torch::ones({50, 3}, torch::kLong), torch::zeros({50, 4}, torch::kLong)}, 1);
  const Tensor labels = torch::arange(50).remainder(3);
  const Tensor first = peft::RandomiseTargets(labels, 3, 0.5, "s", one);
  EXPECT_TRUE(torch::equal(first, peft::RandomiseTargets(labels, 3, 0.5, "s", padded)));
  EXPECT_FALSE(torch::equal(first, labels));
  EXPECT_FALSE(torch::equal(first, peft::RandomiseTargets(labels, 3, 0.5, "t", one)));
  const Tensor words = torch::full({50, 3}, -100, torch::kLong);
  EXPECT_TRUE(torch::equal(words, peft::RandomiseTargets(words, 9, 0.1, "s", one)));
}

// By the definition, in plain loops.
double Reference(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  const size_t n = a.size();
  const auto centred = [n](const std::vector<std::vector<double>>& x) {
    std::vector<double> d(n * n), row(n), column(n);
    double all = 0;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (size_t k = 0; k < x[i].size(); ++k) sum += (x[i][k] - x[j][k]) * (x[i][k] - x[j][k]);
        d[i * n + j] = std::sqrt(sum);
        row[i] += d[i * n + j] / static_cast<double>(n - 2);
        column[j] += d[i * n + j] / static_cast<double>(n - 2);
        all += d[i * n + j] / static_cast<double>((n - 1) * (n - 2));
      }
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) d[i * n + j] = i == j ? 0 : d[i * n + j] + all - row[i] - column[j];
    }
    return d;
  };
  const auto of_a = centred(a), of_b = centred(b);
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < n * n; ++i) {
    ab += of_a[i] * of_b[i];
    aa += of_a[i] * of_a[i];
    bb += of_b[i] * of_b[i];
  }
  return std::sqrt(ab / std::sqrt(aa * bb));
}

TEST(DistanceCorrelation, IsThatOfItsDefinition) {
  torch::manual_seed(2);
  const Tensor a = torch::randn({17, 3}, torch::kFloat64);
  const Tensor b = torch::cat({a.slice(1, 0, 1).pow(2), torch::randn({17, 1}, torch::kFloat64)}, 1);
  const auto rows = [](const Tensor& x) {
    std::vector<std::vector<double>> out;
    for (int64_t i = 0; i < x.size(0); ++i) {
      out.emplace_back(x[i].data_ptr<double>(), x[i].data_ptr<double>() + x.size(1));
    }
    return out;
  };
  EXPECT_NEAR(peft::DistanceCorrelation(a, b), Reference(rows(a), rows(b)), 1e-12);
}

TEST(DistanceCorrelation, IsOneOfAMovedAndScaledCopyAndSmallOfWhatIsIndependent) {
  torch::manual_seed(3);
  const Tensor a = torch::randn({300, 2}, torch::kFloat64), b = torch::randn({300, 2}, torch::kFloat64);
  EXPECT_NEAR(peft::DistanceCorrelation(a, -3 * a + 2), 1, 1e-9);
  EXPECT_LT(peft::DistanceCorrelation(a, b), 0.25);
  EXPECT_GT(peft::DistanceCorrelation(a, a.pow(2)), 0.35);  // which no linear correlation sees
  EXPECT_EQ(peft::DistanceCorrelation(a, torch::ones({300, 1})), 0);
  EXPECT_EQ(peft::DistanceCorrelation(a.slice(0, 0, 1), b.slice(0, 0, 1)), 0);
}

// ---- in runs ----

const Settings kNoisy = {{"split.server", "per_device"},
                         {"privacy.clip_norm", "4"},
                         {"privacy.noise_multiplier", "0.5"},
                         {"privacy.distance_correlation", "true"}};

TEST(SplitPrivacy, NoSampleThatIsSentIsLongerThanTheClipAndNoiseHidesTheInputs) {
  const auto sent = [](const Settings& settings) {
    SplitWorld world(settings);
    world.Turn("device-0");
    const auto frame = *protocol::ParseTensorFrame(world.Next("device-0"));
    return std::pair{*peft::TakeTensor(frame, torch::kFloat64, torch::kCPU),
                     world.devices.at("device-0")->stats().distance_correlation};
  };
  const auto [plain, of_plain] = sent({{"privacy.distance_correlation", "true"}});
  const auto [clipped, of_clipped] = sent({{"privacy.clip_norm", "0.05"}, {"privacy.distance_correlation", "true"}});
  const auto [noisy, of_noisy] = sent(
      {{"privacy.clip_norm", "0.05"}, {"privacy.noise_multiplier", "1"}, {"privacy.distance_correlation", "true"}});
  EXPECT_GT(plain[0].norm().item<double>(), 0.05);
  for (int64_t row = 0; row < clipped.size(0); ++row) EXPECT_LE(clipped[row].norm().item<double>(), 0.05 * (1 + 1e-5));
  const Tensor noise = noisy - clipped;
  EXPECT_NEAR(noise.std().item<double>(), 0.05, 0.05 * 5 / std::sqrt(2.0 * static_cast<double>(noise.numel())));
  EXPECT_GT(of_plain, 0.5);
  EXPECT_LT(of_noisy, of_plain / 2);
}

TEST(SplitPrivacy, ARunWithNoiseLearnsAndIsTheSameAfterBrokenConnectionsAndKills) {
  SplitWorld undisturbed(kNoisy), broken(kNoisy);
  undisturbed.Interleaved();
  broken.keeps_state = true;
  for (const std::string& name : broken.Names()) broken.AddDevice(name);
  broken.loses_answer = [](int frame) { return frame % 5 == 0; };
  int turns = 0;
  broken.Interleaved([&](const std::string& name) {
    if (++turns == 11) broken.StartServer();
    if (turns == 17) broken.AddDevice(name);
  });
  ExpectSameBits(broken.Outcome(), undisturbed.Outcome());
}

// It may make other bits of a step that is computed again, and so a second draw of noise.
TEST(SplitPrivacy, AGpuAddsNoNoise) {
  SplitWorld world(kNoisy);
  client::TaskResources resources;
  const Status status =
      client::PrepareSplitDevice(world.plan, world.folder() / "device-0.txt", resources, {}, "cuda").status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("--compute-device cpu"), std::string::npos) << status;
}

// Not by what other programs call it.
TEST(SplitSetup, AGpuThatIsNotThereIsRefusedByTheNameOfTheOptionThatAskedForIt) {
  if (model::DeviceFromName("cuda").ok()) GTEST_SKIP() << "there is a GPU";
  SplitWorld world;
  client::TaskResources resources;
  const Status server = coordinator::PrepareSplitServer(world.plan, world.folder() / "other", "cuda").status();
  const Status device =
      client::PrepareSplitDevice(world.plan, world.folder() / "device-0.txt", resources, {}, "cuda").status();
  for (const Status& status : {server, device}) {
    EXPECT_EQ(status.code(), Code::kFailedPrecondition);
    EXPECT_NE(status.message().find("--compute-device: the device is set to cuda"), std::string::npos) << status;
    EXPECT_EQ(status.message().find("worker.device"), std::string::npos) << status;
  }
}

TEST(SplitPrivacy, WithoutASecretThereIsNoNoise) {
  SplitWorld world(kNoisy);
  client::TaskResources resources;
  auto options = *client::PrepareSplitDevice(world.plan, world.folder() / "device-0.txt", resources);
  EXPECT_EQ(client::SplitDevice::Make(std::move(options)).status().code(), Code::kInvalidArgument);
  // Beside a state file it is made once, and nobody else may read it.
  for (int i = 0; i < 2; ++i) {
    auto kept = *client::PrepareSplitDevice(world.plan, world.folder() / "device-0.txt", resources,
                                            world.folder() / "kept.state");
    EXPECT_EQ(kept.secret.size(), 64U);
    EXPECT_EQ(kept.secret, *ReadFile(world.folder() / "split.secret"));
  }
  using std::filesystem::perms;
  const auto mode = std::filesystem::status(world.folder() / "split.secret").permissions();
  EXPECT_EQ(mode & (perms::group_all | perms::others_all), perms::none);
}

TEST(SplitPrivacy, RandomisedLabelsAreWhatTheServerSees) {
  const Settings settings = {{"split.topology", "label_sharing"}};
  SplitWorld plain(settings),
      private_labels(Settings{{"split.topology", "label_sharing"}, {"privacy.label_epsilon", "3"}});
  std::vector<int32_t> before, after;
  for (SplitWorld* world : {&plain, &private_labels}) {
    world->Turn("device-0");
    (world == &plain ? before : after) = protocol::ParseTensorFrame(world->Next("device-0"))->targets;
  }
  ASSERT_EQ(before.size(), after.size());
  // Of 320 labels, e^3 / (e^3 + 319) = 6 % stay.
  size_t same = 0;
  for (size_t i = 0; i < before.size(); ++i) same += before[i] == after[i] ? 1 : 0;
  EXPECT_LT(same, before.size() / 3);
  private_labels.Interleaved();
  EXPECT_TRUE(private_labels.server->done());
}

}  // namespace
}  // namespace heddle
