// Tensors of files in other types: their values, and the memory that they take.
#include "model/weights/tensor_loader.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "common/safetensors.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/random_tensor.h"

namespace heddle::model {
namespace {

constexpr std::array kTypes = {DType::kF32, DType::kF16, DType::kBF16, DType::kF64};

// `spaces` behind the header move the data to another alignment.
SafetensorsFile Written(const std::filesystem::path& path, const torch::Tensor& values, DType type, size_t spaces) {
  const torch::Tensor stored = values.to(TorchType(type)).contiguous();
  const std::string size = std::to_string(stored.nbytes());
  std::string header = R"({"w":{"dtype":")" + std::string(DTypeName(type)) + R"(","shape":[)" +
                       std::to_string(values.size(0)) + "," + std::to_string(values.size(1)) +
                       R"(],"data_offsets":[0,)" + size + "]}}";
  header.append((8 - header.size() % 8) % 8 + spaces, ' ');
  std::ofstream out(path, std::ios::binary);
  const uint64_t length = header.size();
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << header;
  out.write(static_cast<const char*>(stored.data_ptr()), static_cast<std::streamsize>(stored.nbytes()));
  out.close();
  auto file = ReadSafetensors(path, Misaligned::kKeep);
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

TEST(TensorLoader, GivesTheValuesThatLibTorchGives) {
  TempDir dir;
  // More than two pieces, and one that is small.
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1531, 1499}, {3, 5}}) {
    const torch::Tensor values = RandomTensor({rows, columns}, 1);
    for (const DType stored : kTypes) {
      for (const size_t spaces : {0, 1}) {
        const auto file = Written(dir / "w", values, stored, spaces);
        const TensorLoader loader(file.files);
        for (const at::ScalarType wanted : {at::kFloat, at::kBFloat16, at::kDouble, at::kHalf}) {
          const torch::Tensor loaded = loader.Dense(file.tensors.at("w"), wanted);
          EXPECT_EQ(loaded.scalar_type(), wanted);
          const torch::Tensor in_file = values.to(TorchType(stored));
          const torch::Tensor expected = TorchType(stored) == wanted ? in_file : in_file.to(torch::kFloat).to(wanted);
          EXPECT_TRUE(torch::equal(loaded, expected)) << DTypeName(stored) << " to " << wanted;
        }
      }
    }
  }
}

TEST(HugePagePolicy, TriesLessAndLessOftenWhileTheyAreSlow) {
  HugePagePolicy policy;
  const auto ordinary_before_the_next = [&policy] {
    int count = 0;
    while (!policy.Try()) ++count;
    return count;
  };
  EXPECT_EQ(ordinary_before_the_next(), 0);
  policy.Tell(true);
  EXPECT_EQ(ordinary_before_the_next(), 0);
  for (const int pause : {1, 3, 7, 15, 31, 63, 63}) {
    policy.Tell(false);
    EXPECT_EQ(ordinary_before_the_next(), pause);
  }
  policy.Tell(true);
  EXPECT_EQ(ordinary_before_the_next(), 0);
  policy.Tell(false);
  EXPECT_EQ(ordinary_before_the_next(), 1) << "one fast piece and all is forgotten";
}

TEST(TensorLoader, TheStoredTypeIsUsedInPlaceWhereItIsAligned) {
  TempDir dir;
  for (const DType type : kTypes) {
    const auto file = Written(dir / "w", RandomTensor({256, 256}, 2), type, 0);
    const Tensor& source = file.tensors.at("w");
    const TensorLoader loader(file.files);
    EXPECT_EQ(loader.Dense(source, TorchType(type)).data_ptr(), source.bytes().data());
    const auto moved = Written(dir / "w2", RandomTensor({256, 256}, 2), type, 1);
    const torch::Tensor copy = TensorLoader(moved.files).Dense(moved.tensors.at("w"), TorchType(type));
    EXPECT_NE(copy.data_ptr(), moved.tensors.at("w").bytes().data());
    EXPECT_TRUE(torch::equal(copy, loader.Dense(source, TorchType(type))));
  }
}

TEST(TensorLoader, WhatIsInPlaceOutlivesTheFile) {
  TempDir dir;
  torch::Tensor loaded;
  {
    const auto file = Written(dir / "w", RandomTensor({256, 256}, 3), DType::kF32, 0);
    loaded = TensorLoader(file.files).Dense(file.tensors.at("w"), at::kFloat);
  }
  std::filesystem::remove(dir / "w");
  EXPECT_TRUE(torch::equal(loaded, RandomTensor({256, 256}, 3)));
}

// KiB of the mappings of `path` that count as memory of this process.
size_t ResidentKib(const std::filesystem::path& path) {
  std::ifstream in("/proc/self/smaps");
  size_t total = 0;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.find('-') < line.find(' ')) inside = line.ends_with(path.string());
    if (inside && line.starts_with("Rss:")) total += std::stoul(line.substr(4));
  }
  return total;
}

// A small tensor in place would keep its page, and with it perhaps two megabytes of the file.
TEST(TensorLoader, SmallTensorsAreCopiedAlsoInTheStoredType) {
  TempDir dir;
  for (const DType type : kTypes) {
    const auto file = Written(dir / "w", RandomTensor({16, 16}, 5), type, 0);
    const torch::Tensor copy = TensorLoader(file.files).Dense(file.tensors.at("w"), TorchType(type));
    EXPECT_NE(copy.data_ptr(), file.tensors.at("w").bytes().data());
    EXPECT_TRUE(torch::equal(copy, RandomTensor({16, 16}, 5).to(TorchType(type))));
    EXPECT_LE(ResidentKib(dir / "w"), 4U);
  }
}

TEST(TensorLoader, ConvertedAndQuantisedPagesOfTheFileAreLetGo) {
  TempDir dir;
  const auto file = Written(dir / "w", RandomTensor({2048, 2048}, 4), DType::kF16, 0);  // 8 MiB
  const Tensor& source = file.tensors.at("w");
  const TensorLoader loader(file.files);
  unsigned sum = 0;
  for (const std::byte b : source.bytes()) sum += static_cast<unsigned>(b);
  ASSERT_GT(sum, 0U);
  ASSERT_GT(ResidentKib(dir / "w"), 8000U) << "the measure sees nothing";
  const torch::Tensor wide = loader.Dense(source, at::kFloat);
  EXPECT_LT(ResidentKib(dir / "w"), 300U);
  const auto packed = loader.Quantized(source, QuantKind::kNf4);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_LT(ResidentKib(dir / "w"), 300U);
  EXPECT_TRUE(torch::equal((*packed)->Dense(at::kFloat),
                           (*QuantizedMatrix::Quantize(wide, QuantKind::kNf4))->Dense(at::kFloat)));
}

TEST(TensorLoader, TheNumberOfThreadsChangesNothing) {
  TempDir dir;
  const int before = at::get_num_threads();
  const auto file = Written(dir / "w", RandomTensor({1500, 1500}, 5), DType::kBF16, 1);
  const TensorLoader loader(file.files);
  at::set_num_threads(1);
  const torch::Tensor alone = loader.Dense(file.tensors.at("w"), at::kFloat);
  at::set_num_threads(3);
  EXPECT_TRUE(torch::equal(loader.Dense(file.tensors.at("w"), at::kFloat), alone));
  at::set_num_threads(before);
}

TEST(TensorLoader, AWeightThatIsNotFiniteCannotBeQuantised) {
  TempDir dir;
  torch::Tensor values = RandomTensor({8, 8}, 6);
  values[7][7] = NAN;
  const auto file = Written(dir / "w", values, DType::kF16, 0);
  EXPECT_EQ(TensorLoader(file.files).Quantized(file.tensors.at("w"), QuantKind::kInt8).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace heddle::model
