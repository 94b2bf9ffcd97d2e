// What the reader and writer of safetensors do with files that are as they should be, and with folders of them.
#include "common/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "common/digest.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

std::string FileOf(const std::string& header, const std::string& data) {
  uint64_t size = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + header + data;
}

std::string BytesOf(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(std::data(values)), values.size() * sizeof(float)};
}

Result<SafetensorsFile> Parse(std::string text) {
  auto owner = std::make_shared<std::string>(std::move(text));
  return ParseSafetensors(std::as_bytes(std::span(*owner)), owner);
}

StateDict Example() {
  StateDict dict;
  dict["w"] = Tensor::FromFloats({2, 1}, std::vector<float>{1.5F, -2});
  dict["a"] = Tensor::FromFloats({}, std::vector<float>{7});
  dict["none"] = Tensor::FromFloats({0, 4}, {});
  return dict;
}

TEST(Safetensors, TheSerialisationIsCanonical) {
  std::string expected_header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("none":{"dtype":"F32","shape":[0,4],"data_offsets":[4,4]},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}})";
  expected_header.resize((expected_header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(SerializeSafetensors(Example()), FileOf(expected_header, BytesOf({7, 1.5F, -2})));
}

TEST(Safetensors, WithoutMetadataThereIsNoEntryForIt) {
  EXPECT_EQ(SerializeSafetensors({}, {}), FileOf("{}      ", ""));
  EXPECT_TRUE(Parse(SerializeSafetensors({}, {})).value().tensors.empty());
}

TEST(Safetensors, WhatWasReadIsWrittenWithTheSameBytes) {
  std::string once = SerializeSafetensors(Example(), {{"z", "1"}, {"format", "pt"}, {"q\"\\\n", "\xC3\xA4"}});
  SafetensorsFile file = Parse(once).value();
  EXPECT_EQ(file.metadata.at("q\"\\\n"), "\xC3\xA4");
  EXPECT_EQ(file.tensors.at("w").ToFloats().value(), (std::vector<float>{1.5F, -2}));
  EXPECT_EQ(SpecOf(file.tensors), SpecOf(Example()));
  EXPECT_EQ(SerializeSafetensors(file.tensors, file.metadata), once);
}

TEST(Safetensors, OrderAndSpacesOfTheHeaderDoNotReachTheCanonicalForm) {
  std::string foreign = FileOf(
      "{ \"w\" : { \"data_offsets\" : [0, 8], \"shape\" : [2, 1], \"dtype\" : \"F32\" },\n"
      "\"a\":{\"shape\":[],\"data_offsets\":[8,12],\"dtype\":\"F32\"},"
      "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[0,0]} }  ",
      BytesOf({1.5F, -2, 7}));
  auto file = Parse(foreign);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Sha256(SerializeSafetensors(file->tensors)), Sha256(SerializeSafetensors(Example())));
}

TEST(Safetensors, TensorsKeepTheirBytesAliveByThemselves) {
  StateDict tensors = Parse(SerializeSafetensors(Example())).value().tensors;
  EXPECT_EQ(tensors.at("a").values<float>()[0], 7);
}

// A header of a length that is no multiple of the element's size, as old writers made them.
TEST(Safetensors, AMisalignedTensorIsCopiedToWhereItCanBeRead) {
  for (size_t spaces = 0; spaces < 8; ++spaces) {
    std::string header = R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})" + std::string(spaces, ' ');
    double value = 0.1;
    auto file = Parse(FileOf(header, {reinterpret_cast<const char*>(&value), 8}));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->tensors.at("x").values<double>()[0], 0.1);
  }
}

TEST(Safetensors, OneThatIsKeptMisalignedIsAViewOfTheFile) {
  TempDir dir;
  for (size_t spaces = 0; spaces < 8; ++spaces) {
    const std::string header = R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})" + std::string(spaces, ' ');
    const double value = 0.1;
    dir.Write("m.safetensors", FileOf(header, {reinterpret_cast<const char*>(&value), 8}));
    const auto file = ReadSafetensors(dir / "m.safetensors", Misaligned::kKeep);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto bytes = file->tensors.at("x").bytes();
    ASSERT_EQ(file->files.size(), 1U);
    EXPECT_TRUE(file->files[0]->Holds(bytes));
    EXPECT_EQ(std::memcmp(bytes.data(), &value, 8), 0);
  }
}

TEST(Safetensors, AFileIsMappedAndErrorsNameIt) {
  TempDir dir;
  ASSERT_TRUE(WriteSafetensors(dir / "m.safetensors", Example()).ok());
  EXPECT_EQ(Slurp(dir / "m.safetensors"), SerializeSafetensors(Example()));
  EXPECT_EQ(ReadSafetensors(dir / "m.safetensors").value().tensors.size(), 3U);
  dir.Write("bad.safetensors", "short");
  Status status = ReadSafetensors(dir / "bad.safetensors").status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message().find((dir / "bad.safetensors").string()), 0U);
  EXPECT_EQ(ReadSafetensors(dir / "absent").status().code(), Code::kNotFound);
}

TEST(SafetensorsDeathTest, TheReservedNameIsNoTensors) {
  StateDict dict;
  dict["__metadata__"] = Tensor();
  EXPECT_DEATH(SerializeSafetensors(dict), "keeps for itself");
}

class ModelFolder : public ::testing::Test {
 protected:
  void WriteShard(std::string_view name, std::initializer_list<const char*> tensors) {
    StateDict dict;
    for (const char* t : tensors) dict[t] = Tensor::FromFloats({1}, std::vector<float>{static_cast<float>(t[0])});
    dir_.Write(name, SerializeSafetensors(dict, {{"from", std::string(name)}}));
  }
  void WriteIndex(std::string_view weight_map) {
    dir_.Write("model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":8},\"weight_map\":" + std::string(weight_map) + "}");
  }
  Status StatusOf() { return ReadModelSafetensors(dir_.path()).status(); }
  TempDir dir_;
};

TEST_F(ModelFolder, OneFileIsRead) {
  WriteShard("model.safetensors", {"a", "b"});
  EXPECT_EQ(ReadModelSafetensors(dir_.path()).value().tensors.size(), 2U);
}

TEST_F(ModelFolder, ShardsAreJoinedByTheirIndex) {
  WriteShard("model-1.safetensors", {"a", "c"});
  WriteShard("model-2.safetensors", {"b"});
  WriteIndex(R"({"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"})");
  auto model = ReadModelSafetensors(dir_.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->tensors.size(), 3U);
  EXPECT_EQ(model->tensors.at("b").values<float>()[0], 'b');
}

TEST_F(ModelFolder, IndexAndShardsMustAgree) {
  WriteShard("s1", {"a", "c"});
  WriteShard("s2", {"b"});
  for (const char* weight_map : {R"({"a":"s1","b":"s2"})",                       // does not know c
                                 R"({"a":"s1","b":"s1","c":"s1"})",              // b lies in the wrong shard
                                 R"({"a":"s1","b":"s2","c":"s1","d":"s2"})"}) {  // d is in none
    WriteIndex(weight_map);
    EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument) << weight_map;
  }
  WriteIndex(R"({"a":"s1","b":"s2","c":"s1","d":"s2"})");
  EXPECT_NE(StatusOf().message().find("places the tensor 'd' in s2, which does not hold it"), std::string::npos)
      << StatusOf();
  WriteIndex(R"({"a":"s1","b":"gone","c":"s1"})");
  EXPECT_EQ(StatusOf().code(), Code::kNotFound);
  EXPECT_NE(StatusOf().message().find("names the shard gone, which is not in the folder"), std::string::npos)
      << StatusOf();
}

TEST_F(ModelFolder, AnIndexCannotLeadOutOfItsFolder) {
  WriteShard("s1", {"a"});
  for (const char* name : {"../s1", "/etc/passwd", "sub/s1", "..", ".", ""}) {
    WriteIndex("{\"a\":\"" + std::string(name) + "\"}");
    EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument) << name;
    EXPECT_NE(StatusOf().message().find("in the same folder"), std::string::npos) << name;
  }
}

TEST_F(ModelFolder, AnIndexThatIsNoneIsRefused) {
  for (const char* weight_map : {"[]", "null", "{\"a\":1}", "{"}) {
    WriteIndex(weight_map);
    EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument) << weight_map;
  }
}

TEST_F(ModelFolder, PicklesAreRefusedWithAWayToConvertThem) {
  for (const char* name : {"pytorch_model.bin", "consolidated.00.pth", "model.pt"}) {
    dir_.Write(name, "x");
    Status status = StatusOf();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find(name), std::string::npos);
    EXPECT_NE(status.message().find("convert it with safetensors.torch.save_file"), std::string::npos);
    std::filesystem::remove(dir_ / name);
  }
}

TEST_F(ModelFolder, AnotherFormatUnderTheNameIsToldByItsBeginning) {
  const std::string old_pickle("\x80\x02\x8a\nl\xfc\x9c", 7), pickle("\x80\x04\x95\x10\0\0\0\0\0\0\0", 11);
  for (const std::string& file : {"PK\x03\x04" + std::string(60, 'a'), old_pickle + std::string(60, 'a'), pickle}) {
    dir_.Write("model.safetensors", file);
    EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument);
    EXPECT_NE(StatusOf().message().find("model.safetensors is a pickle"), std::string::npos) << StatusOf();
  }
  dir_.Write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
  EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument);
  EXPECT_NE(StatusOf().message().find("model.safetensors is a git-LFS pointer"), std::string::npos) << StatusOf();
  EXPECT_NE(StatusOf().message().find("git lfs pull"), std::string::npos) << StatusOf();
}

TEST_F(ModelFolder, AHeaderWhoseLengthBeginsLikeAPickleIsRead) {
  StateDict dict{{"a", Tensor::FromFloats({1}, std::vector<float>{1})}};
  std::string file;
  for (size_t more = 0; file.substr(0, 2) != "\x80\x02"; ++more) {
    ASSERT_LT(more, 1000U);
    file = SerializeSafetensors(dict, {{"x", std::string(more, 'x')}});
  }
  dir_.Write("model.safetensors", file);
  EXPECT_TRUE(StatusOf().ok()) << StatusOf();
}

TEST_F(ModelFolder, ShardsWithoutTheirIndexAreRefused) {
  WriteShard("model-00001-of-00002.safetensors", {"a"});
  EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument);
  for (const char* said : {"model-00001-of-00002.safetensors is one of several files", "index.json", "download it"}) {
    EXPECT_NE(StatusOf().message().find(said), std::string::npos) << StatusOf();
  }
}

TEST_F(ModelFolder, ALinkToNowhereIsSaidToBeOne) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    std::filesystem::create_symlink(dir_ / "moved", dir_ / name);
    EXPECT_EQ(StatusOf().code(), Code::kInvalidArgument);
    EXPECT_NE(StatusOf().message().find(std::string(name) + " is a link to "), std::string::npos) << StatusOf();
    EXPECT_NE(StatusOf().message().find("moved, which is not there"), std::string::npos) << StatusOf();
    std::filesystem::remove(dir_ / name);
  }
}

TEST_F(ModelFolder, SafetensorsBesideAPickleAreRead) {
  dir_.Write("pytorch_model.bin", "x");
  WriteShard("model.safetensors", {"a"});
  EXPECT_TRUE(StatusOf().ok());
}

TEST_F(ModelFolder, NothingToReadIsNotFound) {
  dir_.Write("config.json", "{}");
  EXPECT_EQ(StatusOf().code(), Code::kNotFound);
  EXPECT_EQ(ReadModelSafetensors(dir_ / "absent").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace heddle
