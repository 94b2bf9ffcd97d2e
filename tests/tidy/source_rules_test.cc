#include "tests/tidy/source_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace heddle::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Text(const Violations& violations) {
  std::string text;
  for (const std::string& v : violations) text += "\n  " + v;
  return text;
}

// ---- the tree as it is ----

const Tree& Sources() {
  static const Tree kTree = ReadTree(HEDDLE_SOURCE_DIR);
  return kTree;
}

#define EXPECT_KEPT(violations)                \
  do {                                         \
    Violations found = (violations);           \
    EXPECT_TRUE(found.empty()) << Text(found); \
  } while (false)

TEST(SourceTree, WasFound) {
  EXPECT_GT(Sources().size(), 100U);
  EXPECT_TRUE(Sources().contains("common/status.h"));
  EXPECT_TRUE(Sources().contains("protocol/v1/device.proto"));
}
TEST(SourceTree, RoomsIncludeOnlyLowerLevels) { EXPECT_KEPT(CheckLevels(Sources())); }
TEST(SourceTree, LibrariesStayInsideTheirWalls) { EXPECT_KEPT(CheckWalls(Sources())); }
TEST(SourceTree, LibTorchStaysInItsTargetsAndApartFromProtobuf) { EXPECT_KEPT(CheckTorch(Sources())); }
TEST(SourceTree, EveryProgramWithLibTorchLooksAtItsBlas) { EXPECT_KEPT(CheckBlasAtStart(Sources())); }
TEST(SourceTree, EveryProtoFieldHasAComment) { EXPECT_KEPT(CheckProtoComments(Sources())); }
TEST(SourceTree, EveryHeaderSaysItsPurpose) { EXPECT_KEPT(CheckHeaderComments(Sources())); }
TEST(SourceTree, EveryRoomHasAShortReadme) { EXPECT_KEPT(CheckReadmes(Sources())); }
TEST(SourceTree, NothingIsMarkedAsUnfinished) { EXPECT_KEPT(CheckMarkers(Sources())); }
TEST(SourceTree, WhatBecomesDurableOrIsSaidHasFailpoints) { EXPECT_KEPT(CheckFailpoints(Sources())); }
TEST(SourceTree, LongFilesHaveAReason) {
  std::ifstream in(HEDDLE_SOURCE_DIR "/tests/tidy/long_files.txt");
  ASSERT_TRUE(in.good());
  EXPECT_KEPT(CheckLength(Sources(), {std::istreambuf_iterator<char>(in), {}}));
}

// ---- planted mistakes ----

TEST(CheckLevels, FindsAnIncludeOfTheSameOrAHigherLevel) {
  Tree tree = {{"common/a.h", "#pragma once\n#include \"protocol/b.h\"\n"},
               {"protocol/b.h", ""},
               {"client/c.cc", "#include \"coordinator/d.h\"\n"},
               {"coordinator/d.h", "#include \"common/a.h\"\n#include \"protocol/b.h\"\n"},
               {"simulator/e.cc", "#  include   \"tests/f.h\"\n"},
               {"tests/f.h", "#include \"simulator/e.cc\"\n"}};
  EXPECT_THAT(CheckLevels(tree), ElementsAre(HasSubstr("client/c.cc:1: client may not know coordinator"),
                                             HasSubstr("common/a.h:2: common may not know protocol"),
                                             HasSubstr("simulator/e.cc:1: simulator may not know tests")));
}

TEST(CheckLevels, FindsNamesThatDoNotStartAtTheRootOrDoNotExist) {
  Tree tree = {{"common/a.cc", "#include \"a.h\"\n#include \"common/../common/a.h\"\n#include \"common/gone.h\"\n"},
               {"tests/unit/x/t.cc", "#include \"fixture.h\"\n#include \"gone.h\"\n"},
               {"tests/unit/x/fixture.h", ""},
               {"client/b.cc", "#include \"protocol/v1/device.pb.h\"\n#include <vector>\n"}};
  EXPECT_THAT(CheckLevels(tree), ElementsAre(HasSubstr("common/a.cc:1: \"a.h\" is not named from the root"),
                                             HasSubstr("common/a.cc:2"), HasSubstr("common/gone.h does not exist"),
                                             HasSubstr("tests/unit/x/t.cc:2: tests/unit/x/gone.h does not exist")));
}

TEST(CheckWalls, FindsLibrariesOutsideTheirWalls) {
  Tree tree = {{"aggregation/a.cc", "#include <torch/torch.h>\n#include \"protocol/v1/task.pb.h\"\n"},
               {"client/daemon/b.cc", "#include <ATen/ATen.h>\n#include <boost/asio/post.hpp>\n"},
               {"common/c.h", "#include <spdlog/spdlog.h>\n"},
               {"coordinator/engine/d.cc", "#include <sqlite3.h>\n#include <boost/beast/core.hpp>\n"},
               {"coordinator/service/e.h", "#include <prometheus/registry.h>\n"},
               {"model/transformer/f.h", "#include <torch/torch.h>\n"},
               {"protocol/g.cc", "#include <openssl/ssl.h>\n#include <sys/socket.h>\n"}};
  EXPECT_THAT(
      CheckWalls(tree),
      ElementsAre(HasSubstr("aggregation/a.cc:1: torch"), HasSubstr("aggregation/a.cc:2: protocol/v1/task.pb.h"),
                  HasSubstr("client/daemon/b.cc:1: ATen"), HasSubstr("common/c.h:1: spdlog"),
                  HasSubstr("coordinator/engine/d.cc:1: sqlite3.h"),
                  HasSubstr("coordinator/engine/d.cc:2: boost/beast"),
                  HasSubstr("coordinator/service/e.h:1: prometheus"), HasSubstr("protocol/g.cc:1: openssl"),
                  HasSubstr("protocol/g.cc:2: sys/socket.h")));
}

TEST(CheckTorch, FollowsIncludesToLibTorchAndProtobuf) {
  Tree tree = {{"peft/a.h", "#include <torch/torch.h>\n"},
               {"peft/b.h", "#include \"peft/a.h\"\n"},
               {"client/c.h", "#include \"protocol/v1/task.pb.h\"\n"},
               {"client/both.cc", "#include \"peft/b.h\"\n#include \"client/c.h\"\n"},
               {"client/torch_only.cc", "#include \"peft/b.h\"\n"},
               {"client/proto_only.cc", "#include \"client/c.h\"\n"}};
  EXPECT_THAT(CheckTorch(tree), ElementsAre(HasSubstr("client/both.cc:1: LibTorch and Protobuf")));
}

TEST(CheckTorch, KnowsTheTargetsOfCMake) {
  Tree tree = {
      {"peft/CMakeLists.txt",
       "heddle_library(files  # TORCH not here\n  HEADERS files.h\n  SOURCES files.cc\n  DEPENDS heddle::common)\n"
       "heddle_library(peft TORCH\n  HEADERS lora.h SOURCES lora.cc wire.cc PRIVATE_DEPENDS x)\n"},
      {"peft/files.h", "#include \"peft/lora.h\"\n"},
      {"peft/files.cc", ""},
      {"peft/lora.h", "#include <torch/types.h>\n"},
      {"peft/lora.cc", ""},
      {"peft/wire.cc", "#include <google/protobuf/message.h>\n"}};
  EXPECT_THAT(
      CheckTorch(tree),
      ElementsAre(HasSubstr("peft/files.h:1: the target files is free of LibTorch, but peft/files.h > peft/lora.h"),
                  HasSubstr("peft/wire.cc:1: LibTorch and Protobuf in one translation unit: the precompiled")));
}

TEST(CheckBlasAtStart, FindsProgramsThatDoNot) {
  const std::string silent = "int main() {}\n", looks = "int main() { model::WarnOfSlowBlas(); }\n";
  Tree tree = {{"model/CMakeLists.txt",
                "heddle_library(model TORCH SOURCES m.cc)\nheddle_library(loop SOURCES l.cc DEPENDS heddle::model)\n"
                "heddle_executable(a TORCH SOURCES a.cc)\nheddle_executable(b TORCH SOURCES b.cc more.cc)\n"},
               {"client/CMakeLists.txt",
                "heddle_executable(c SOURCES c.cc DEPENDS heddle::last CLI11::CLI11)\n"
                "heddle_executable(d SOURCES d.cc DEPENDS heddle::files)\n"
                "heddle_library(last SOURCES e.cc DEPENDS x PRIVATE_DEPENDS heddle::loop)\n"},
               {"model/a.cc", silent},
               {"model/b.cc", looks},
               {"model/more.cc", ""},
               {"client/c.cc", silent},
               {"client/d.cc", silent}};
  EXPECT_THAT(CheckBlasAtStart(tree), ElementsAre(HasSubstr("client/c.cc:1: c links"), HasSubstr("model/a.cc:1: a")));
}

TEST(CheckProtoComments, FindsWhatNobodyExplained) {
  Tree tree = {
      {"protocol/a.proto",
       "// Purpose.\nsyntax = \"proto3\";\n// A kind.\nenum Kind {\n  KIND_UNSPECIFIED = 0;\n  KIND_B = 1;\n}\n"
       "message M {\n  // Said.\n  string a = 1;\n  string b = 2;  // said\n  repeated int32 c = 3;\n}\n"}};
  EXPECT_THAT(CheckProtoComments(tree), ElementsAre(HasSubstr(":6: no comment says what this is: KIND_B = 1;"),
                                                    HasSubstr(":8:"), HasSubstr(":12:")));
}

TEST(CheckHeaderComments, FindsSilentHeaders) {
  Tree tree = {
      {"common/a.h", "#pragma once\n"}, {"common/b.h", "// Purpose.\n#pragma once\n"}, {"common/c.h", "// P.\n"}};
  EXPECT_THAT(CheckHeaderComments(tree),
              ElementsAre(HasSubstr("common/a.h:1: a header starts"), HasSubstr("common/a.h:1: a header has #pragma"),
                          HasSubstr("common/c.h:1: a header has #pragma")));
}

TEST(CheckLength, WantsAReasonAndOnlyWhereItIsNeeded) {
  std::string lines;
  for (int i = 0; i < 500; ++i) lines += "x\n";
  Tree tree = {{"common/a.cc", lines}, {"common/b.cc", lines + "x\n"}, {"common/c.cc", lines + "x\n"}};
  EXPECT_THAT(CheckLength(tree, "# comment\ncommon/c.cc: a table\n"),
              ElementsAre(HasSubstr("common/b.cc:1: 501 lines")));
  EXPECT_THAT(CheckLength(tree, "common/a.cc: x\ncommon/b.cc: y\ncommon/c.cc: z"),
              ElementsAre(HasSubstr("common/a.cc: it is not longer")));
  EXPECT_THAT(CheckLength(tree, "common/b.cc: y\ncommon/c.cc"),
              ElementsAre("no reason: common/c.cc", HasSubstr("c.cc:1")));
}

TEST(CheckReadmes, WantsOneForEachRoom) {
  Tree tree;
  for (const std::string& room : Rooms()) tree[room + "/README.md"] = "# Room\n";
  tree["recipes/README.md"] = tree["tests/README.md"] = "# Room\n";
  EXPECT_THAT(CheckReadmes(tree), IsEmpty());
  tree.erase("peft/README.md");
  for (int i = 0; i < 60; ++i) tree["model/README.md"] += "x\n";
  EXPECT_THAT(CheckReadmes(tree), ElementsAre(HasSubstr("model/README.md: 61 lines"), HasSubstr("peft/README.md")));
}

TEST(CheckMarkers, FindsWholeWordsOnly) {
  std::string marker = std::string("TO") + "DO";
  Tree tree = {{"common/a.cc", "x;\n// " + marker + ": later\n"}, {"common/b.cc", "int " + marker + "S = 1;\n"}};
  EXPECT_THAT(CheckMarkers(tree), ElementsAre(HasSubstr("common/a.cc:2: unfinished work")));
}

TEST(CheckFailpoints, FindsAnFsyncThatNoKillSurrounds) {
  const std::string before = "HEDDLE_FAILPOINT(kOne);\n", after = "HEDDLE_FAILPOINT(kTwo);\n", sync = "::fsync(fd);\n";
  const std::string far = "a;\nb;\nc;\n";
  Tree tree = {{"common/a.cc", before + sync + after},
               {"client/b.cc", before + sync},
               {"client/c.cc", sync + after},
               {"coordinator/d.cc", before + far + sync + after},
               {"coordinator/e.cc", "// ::fsync( is a word here\n"},
               {"protocol/f.cc", "transaction.commit();\nco_await stream_.Write(answer, false);\n"},
               {"model/g.cc", sync}};
  EXPECT_THAT(CheckFailpoints(tree),
              ElementsAre(HasSubstr("client/b.cc:2: "), HasSubstr("client/c.cc:1: "), HasSubstr("coordinator/d.cc:5: "),
                          HasSubstr("protocol/f.cc:1: "), HasSubstr("protocol/f.cc:2: ")));
}

TEST(CheckFailpoints, FindsOneThatIsListedOnly) {
  Tree tree = {{"common/test_hooks.h",
                "// X(kName, \"name\")\n"
                "#define HEDDLE_FAILPOINTS(X) X(kNone, \"\") X(kOne, \"one\") X(kTwo, \"two\")\n"
                "#define HEDDLE_PLANTED_BUGS(X) X(kBug, \"bug\")\n"},
               {"client/a.cc", "HEDDLE_FAILPOINT(kTwo);\n"}};
  EXPECT_THAT(CheckFailpoints(tree), ElementsAre(HasSubstr("no code passes kOne")));
}

}  // namespace
}  // namespace heddle::tidy
