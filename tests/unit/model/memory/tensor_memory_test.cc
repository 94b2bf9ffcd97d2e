#include "model/memory/tensor_memory.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <thread>
#include <vector>

namespace heddle::model {
namespace {

class TensorMemory : public testing::Test {
 protected:
  void SetUp() override { UseTensorMemory(0.25); }
};

TEST_F(TensorMemory, HoldsTensorsOfEverySize) {
  for (const int64_t n : {0, 1, 15, 1000, 65'519, 65'520, 65'521, 100'000, 3'000'000}) {
    const torch::Tensor x = torch::arange(n, torch::kFloat);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data_ptr()) % 64, 0U) << n;
    const double last = static_cast<double>(n - 1);
    EXPECT_EQ(x.sum(torch::kDouble).item<double>(), n == 0 ? 0.0 : last * (last + 1) / 2) << n;
    torch::Tensor grown = x.clone();
    grown.resize_({2 * n});
    EXPECT_TRUE(grown.slice(0, 0, n).equal(x)) << n;
  }
}

TEST_F(TensorMemory, GivesAStepThePlacesOfTheLast) {
  const auto place = [] {
    const torch::Tensor x = torch::ones({1000, 1000});
    return x.data_ptr();
  };
  void* const first = place();
  EXPECT_EQ(place(), first);
  ReleaseTensorMemory();
  EXPECT_NE(place(), nullptr);
}

TEST_F(TensorMemory, TakesTensorsThatWereMadeElsewhereAndFreedInOtherThreads) {
  torch::Tensor x = torch::ones({1000, 1000});
  double sum = 0;
  std::thread([y = std::move(x), &sum]() mutable {
    sum = y.sum().item<double>();
    y.reset();
  }).join();
  EXPECT_EQ(sum, 1e6);
  std::vector<float> mine(300'000, 1.0F);
  EXPECT_EQ(torch::from_blob(mine.data(), {300'000}).sum().item<double>(), 3e5);
}

TEST_F(TensorMemory, SaysThatThereIsNoMemory) {
  EXPECT_THROW(torch::empty({int64_t{1} << 58}), c10::Error);
  void* raw = c10::GetAllocator(c10::kCPU)->raw_allocate(500'000);
  ASSERT_NE(raw, nullptr);
  c10::GetAllocator(c10::kCPU)->raw_deallocate(raw);
}

}  // namespace
}  // namespace heddle::model
