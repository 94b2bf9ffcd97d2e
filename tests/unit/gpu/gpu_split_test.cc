// Split learning with one side or both on a GPU: the same training as on the processor but for rounding. Skips without
// a GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cmath>

#include "tests/unit/split/split_world.h"

namespace heddle {
namespace {

// ||a - b|| / ||a|| of all tensors.
double Apart(const StateDict& a, const StateDict& b) {
  EXPECT_EQ(SpecOf(a), SpecOf(b));
  double apart = 0, size = 0;
  for (const auto& [name, tensor] : a) {
    const auto x = tensor.values<float>(), y = b.at(name).values<float>();
    for (size_t i = 0; i < x.size(); ++i) {
      apart += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
      size += std::pow(static_cast<double>(x[i]), 2);
    }
  }
  EXPECT_GT(size, 0);
  return std::sqrt(apart / size);
}

StateDict Trained(const std::string& topology, const std::string& mode, const SplitCompute& compute) {
  // Masks of dropout come from the generator of what computes.
  SplitWorld world({{"split.topology", topology},
                    {"split.server", mode},
                    {"device.lora_dropout", "0"},
                    {"server.lora_dropout", "0"}},
                   kPlan, compute);
  world.OneAfterTheOther();
  return world.Outcome();
}

class SplitSides : public testing::TestWithParam<SplitCompute> {
 protected:
  void SetUp() override {
    if ((GetParam().server == "cuda" || GetParam().device == "cuda") && !torch::cuda::is_available()) {
      GTEST_SKIP() << "LibTorch finds no GPU here";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(OnGpu, SplitSides,
                         testing::Values(SplitCompute{"cuda", "cpu"}, SplitCompute{"cpu", "cuda"},
                                         SplitCompute{"cuda", "cuda"}),
                         [](const auto& info) {
                           return info.param.server + "_server_" + info.param.device + "_device";
                         });

TEST_P(SplitSides, TrainAsOnTheProcessor) {
  for (const char* topology : {"u_shaped", "label_sharing"}) {
    for (const char* mode : {"shared", "per_device"}) {
      EXPECT_LT(Apart(Trained(topology, mode, {}), Trained(topology, mode, GetParam())), 1e-3)
          << topology << " " << mode;
    }
  }
}

TEST_P(SplitSides, GoOnFromWhatTheyKept) {
  SplitWorld world({{"device.lora_dropout", "0"}, {"server.lora_dropout", "0"}}, kPlan, GetParam());
  for (int i = 0; i < 5; ++i) world.Turn("device-0");
  world.StartServer();
  world.OneAfterTheOther();
  SplitWorld undisturbed({{"device.lora_dropout", "0"}, {"server.lora_dropout", "0"}}, kPlan, GetParam());
  undisturbed.OneAfterTheOther();
  EXPECT_LT(Apart(undisturbed.Outcome(), world.Outcome()), 1e-3);
}

}  // namespace
}  // namespace heddle
