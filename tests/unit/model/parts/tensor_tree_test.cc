// The tree of hashes against hashes that hashlib computed, against every flipped byte, and as the files of a part.
#include "model/parts/tensor_tree.h"

#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include "common/file.h"
#include "common/safetensors.h"
#include "model/config/registry.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::model {
namespace {

using testing::HasSubstr;
using Trees = std::map<std::string, TensorTree, std::less<>>;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TensorTree TreeOf(const std::string& file) {
  auto tree = MakeTensorTree(Bytes(file), Sha256(file));
  EXPECT_TRUE(tree.ok()) << tree.status();
  return *std::move(tree);
}

// That of tests/data/parts/make_tree.py.
std::string Example() {
  StateDict tensors;
  tensors["a"] = Tensor::FromFloats({2}, std::vector<float>{1, -2});
  std::span<std::byte> bytes;
  tensors["b.weight"] = Tensor::Allocate({DType::kI8, {1, 3}}, &bytes);
  bytes[0] = std::byte{1};
  bytes[1] = std::byte{2};
  bytes[2] = std::byte{255};
  tensors["c"] = Tensor::FromFloats({}, std::vector<float>{0.5F});
  return SerializeSafetensors(tensors);
}

// What a device would put together for one tensor.
std::string FileOf(const TensorFile& tensor, const std::string& source) {
  return tensor.head + source.substr(tensor.begin, tensor.bytes);
}

// A small model's file, and the part of it with these layers.
struct Model {
  ModelSpec spec;
  std::string file;
};
Model Small() {
  Model model{TinyConfig(), ""};
  model.spec.num_hidden_layers = 4;
  model.file = SerializeSafetensors(RandomWeights(model.spec, 5));
  return model;
}

TEST(TensorTree, HashesAreThoseOfAnIndependentProgram) {
  const std::string file = Example();
  ASSERT_EQ(Sha256(file).ToHex(), "ab09e9f569e65170781b3d53170d57a0260f0ca36ee3d596781318d5fc69de3b");
  const TensorTree tree = TreeOf(file);
  EXPECT_EQ(tree.tensors.at("a").leaf.ToHex(), "95aead0b1a3227f0328a0bdb7b3ef03760e205159a3920d03624bd3237f962e5");
  EXPECT_EQ(tree.tensors.at("b.weight").leaf.ToHex(),
            "f32b359ec2e5b44cae49a5a07a7e95161a7f7d2bb0edee2c3519969adfed39b8");
  EXPECT_EQ(tree.Root().ToHex(), "2bf21351b5047465ac05983f805a30946588b039d6a7ce90d34f8faf8b196d53");
  const std::string bytes = EncodeTensorTree(tree);
  EXPECT_EQ(Sha256(bytes).ToHex(), "43390543e473036f3a6a615c8366c872fbcc0ee068fa282cba89f09c31254cd7");
  EXPECT_EQ(DecodeTensorTree(bytes).value(), tree);
}

TEST(TensorTree, ALeafIsAFileThatAnyReaderTakes) {
  const Model model = Small();
  const auto files = FilesOfPart(model.spec, Trees{{"model.safetensors", TreeOf(model.file)}});
  ASSERT_TRUE(files.ok()) << files.status();
  const auto whole = ParseSafetensors(Bytes(model.file), nullptr)->tensors;
  ASSERT_EQ(files->size(), whole.size());
  for (const TensorFile& one : *files) {
    const std::string file = FileOf(one, model.file);
    EXPECT_EQ(Sha256(file), one.digest);
    EXPECT_EQ(file.size(), one.size());
    const auto read = ParseSafetensors(Bytes(file), nullptr);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->tensors.size(), 1U);
    const auto got = read->tensors.at(one.tensor).bytes(), wanted = whole.at(one.tensor).bytes();
    EXPECT_TRUE(std::equal(got.begin(), got.end(), wanted.begin(), wanted.end()));
  }
}

// Whoever takes the tree by its digest sees any change of it at once; this is about one that was not named so.
TEST(TensorTree, EveryAlteredByteOfTreeOrFileIsFoundOut) {
  const Model model = Small();
  const std::string tree = EncodeTensorTree(TreeOf(model.file));
  const auto delivers = [&](const std::string& tree_bytes, const std::string& file) -> bool {
    const auto decoded = DecodeTensorTree(tree_bytes);
    if (!decoded.ok()) return false;
    const auto files = FilesOfPart(model.spec, Trees{{"model.safetensors", *decoded}});
    if (!files.ok()) return false;
    for (const TensorFile& one : *files) {
      if (one.begin > file.size() || one.bytes > file.size() - one.begin) return false;
      if (Sha256(FileOf(one, file)) != one.digest) return false;
    }
    return true;
  };
  ASSERT_TRUE(delivers(tree, model.file));
  for (size_t i = 0; i < tree.size(); ++i) {
    std::string other = tree;
    other[i] = static_cast<char>(other[i] ^ (1 << (i % 8)));
    EXPECT_FALSE(delivers(other, model.file)) << "byte " << i << " of the tree";
  }
  const size_t data = model.file.size() - TotalBytes(ParseSafetensors(Bytes(model.file), nullptr)->tensors);
  for (size_t i = data; i < model.file.size(); i += 61) {
    std::string other = model.file;
    other[i] = static_cast<char>(other[i] ^ 1);
    EXPECT_FALSE(delivers(tree, other)) << "byte " << i << " of the file";
  }
}

RC_GTEST_PROP(TensorTree, AnyTensorsMakeATreeThatReadsBackAndNoShorterOneDoes, ()) {
  const auto count = *rc::gen::inRange<int>(0, 12);
  StateDict tensors;
  for (int i = 0; i < count; ++i) {
    const auto rows = *rc::gen::inRange<int64_t>(0, 4), columns = *rc::gen::inRange<int64_t>(0, 4);
    const auto dtype = *rc::gen::element(DType::kU8, DType::kBF16, DType::kF32, DType::kI64);
    std::span<std::byte> bytes;
    Tensor tensor = Tensor::Allocate({dtype, {rows, columns}}, &bytes);
    for (std::byte& byte : bytes) byte = std::byte{*rc::gen::arbitrary<uint8_t>()};
    tensors.emplace("t" + std::to_string(*rc::gen::inRange<int>(0, 1000)), std::move(tensor));
  }
  const std::string file = SerializeSafetensors(tensors, {});
  const auto tree = MakeTensorTree(Bytes(file), Sha256(file));
  RC_ASSERT(tree.ok());
  const std::string bytes = EncodeTensorTree(*tree);
  RC_ASSERT(DecodeTensorTree(bytes).value() == *tree);
  const auto cut = *rc::gen::inRange<size_t>(0, bytes.size());
  RC_ASSERT(!DecodeTensorTree(bytes.substr(0, cut)).ok());
  RC_ASSERT(!DecodeTensorTree(bytes + "x").ok());
}

TEST(TensorTree, APartHasItsOwnTensorsAndNoOthers) {
  Model model = Small();
  model.spec.part.layers = {1, 3};
  const Trees trees = {{"model.safetensors", TreeOf(model.file)}};
  const auto files = FilesOfPart(model.spec, trees);
  ASSERT_TRUE(files.ok()) << files.status();
  std::vector<std::string> names, wanted;
  uint64_t bytes = 0;
  for (const TensorFile& one : *files) {
    names.push_back(one.tensor);
    bytes += one.bytes;
  }
  for (const auto& [name, spec] : model.spec.WeightSpec()) wanted.push_back(name);
  EXPECT_EQ(names, wanted);
  EXPECT_EQ(bytes, 4 * static_cast<uint64_t>(model.spec.NumParameters()));
  // As a folder it is what readers of sharded models know.
  const TempDir temp;
  for (const TensorFile& one : *files) {
    ASSERT_TRUE(WriteFileAtomically(temp.path() / one.name, FileOf(one, model.file)).ok());
  }
  ASSERT_TRUE(WriteFileAtomically(temp.path() / "model.safetensors.index.json", PartIndexJson(*files)).ok());
  const auto folder = ReadModelSafetensors(temp.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE(model.spec.CheckTensors(SpecOf(folder->tensors)).ok());
  EXPECT_EQ(SpecOf(folder->tensors), model.spec.WeightSpec());
}

TEST(TensorTree, TensorsThatAreNotTheModelsAreRefused) {
  Model model = Small();
  const TensorTree tree = TreeOf(model.file);
  ModelSpec wider = model.spec;
  wider.intermediate_size += 8;
  EXPECT_THAT(FilesOfPart(wider, Trees{{"model.safetensors", tree}}).status().message(), HasSubstr("shape"));
  EXPECT_THAT(FilesOfPart(model.spec, Trees{{"one", tree}, {"two", tree}}).status().message(),
              HasSubstr("two of the model's files"));
  EXPECT_FALSE(FilesOfPart(model.spec, {}).ok());
}

TEST(TensorTree, FilesBeyondItsBoundsGetNone) {
  StateDict tensors;
  tensors["x"] = Tensor::FromFloats(Shape(kMaxTreeDimensions + 1, 1), std::vector<float>{1});
  std::string file = SerializeSafetensors(tensors);
  EXPECT_EQ(MakeTensorTree(Bytes(file), Sha256(file)).status().code(), Code::kInvalidArgument);
  tensors.clear();
  tensors[std::string(kMaxTreeNameBytes + 1, 'x')] = Tensor::FromFloats({1}, std::vector<float>{1});
  file = SerializeSafetensors(tensors);
  EXPECT_EQ(MakeTensorTree(Bytes(file), Sha256(file)).status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(MakeTensorTree(Bytes("no file"), Sha256Digest()).ok());
}

}  // namespace
}  // namespace heddle::model
