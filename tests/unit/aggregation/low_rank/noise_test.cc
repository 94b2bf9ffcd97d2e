// Noise that devices add to their updates, after the mean of factors and after FFA-LoRA: against its expected size in
// double. With both factors noised a layer gets B E_A + E_B A + E_B E_A, the last growing with the square of the noise;
// with A frozen it gets E_B A alone (FFA-LoRA, 2403.12313).
#include <gtest/gtest.h>

#include "aggregation/privacy/update_privacy.h"
#include "tests/unit/aggregation/low_rank/round.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr double kClip = 50;  // longer than any update here

struct NoiseError {
  double seen = 0, expected = 0;  // Frobenius norms over all layers
};

double SquaresOf(const Tensor& tensor) {
  double sum = 0;
  for (const float x : tensor.values<float>()) sum += double{x} * double{x};
  return sum;
}

// What noise of this deviation changes in the layers that the method makes of four devices' updates.
NoiseError ErrorOf(const std::string& method, double deviation) {
  std::vector<Layer> layers;
  for (int i = 0; i < 12; ++i) layers.push_back({"h." + std::to_string(i) + ".q_proj", 48, 48, 4});
  const StateDict model = Model(layers, 1, 0.3F, false);
  AggregatorOptions options;
  options.scaling = kScaling;
  const DeviceRules rules = *RulesOf(method, options);
  std::vector<Device> clean, noised;
  for (const char* name : {"anna", "bert", "cleo", "dora"}) {
    clean.push_back(MakeDevice(model, name, 7 + clean.size(), 0.05F, 10, 0, rules));
    noised.push_back(clean.back());
    const auto made =
        privacy::MakePrivate(clean.back().update, {.clip = kClip, .noise_multiplier = deviation / kClip},
                             privacy::TaskSecret(std::string("secret of ") + name, method + std::to_string(deviation)));
    EXPECT_TRUE(made.ok()) << made.status();
    noised.back().update = *made;
  }
  const StateDict without = Merged(method, model, clean, options), with = Merged(method, model, noised, options);
  const double variance = deviation * deviation / 4;  // of a mean of four
  NoiseError out;
  for (const Layer& layer : layers) {
    const double distance = Distance(LayerOf(with, layer, kScaling), LayerOf(without, layer, kScaling));
    out.seen += distance * distance;
    const auto d = static_cast<double>(layer.d), k = static_cast<double>(layer.k), r = static_cast<double>(layer.rank);
    double squares = variance * d * SquaresOf(without.at(AKey(layer.path)));
    if (method == "FedIT") {
      squares += variance * k * SquaresOf(without.at(BKey(layer.path))) + variance * variance * d * k * r;
    }
    out.expected += kScaling * kScaling * squares;
  }
  return {std::sqrt(out.seen), std::sqrt(out.expected)};
}

TEST(NoisedFactors, MeanOfBothFactorsAmplifiesTheNoiseAndAFrozenAHandsItOn) {
  double last_ratio = 1;
  for (const double deviation : {0.05, 0.4, 1.6}) {
    SCOPED_TRACE(deviation);
    const NoiseError both = ErrorOf("FedIT", deviation), one = ErrorOf("FFA-LoRA", deviation);
    EXPECT_NEAR(both.seen, both.expected, 0.06 * both.expected);
    EXPECT_NEAR(one.seen, one.expected, 0.06 * one.expected);
    const double ratio = both.seen / one.seen;
    RecordProperty("ratio_" + std::to_string(static_cast<int>(100 * deviation)), std::to_string(ratio));
    EXPECT_GT(ratio, 1.05 * last_ratio) << "the square of the noise grows faster than the noise";
    last_ratio = ratio;
  }
  EXPECT_GT(last_ratio, 3);
  // With A frozen twice the noise is twice the error.
  EXPECT_NEAR(ErrorOf("FFA-LoRA", 0.8).seen / ErrorOf("FFA-LoRA", 0.4).seen, 2, 0.1);
}

}  // namespace
}  // namespace heddle::aggregation::low_rank
