#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <cstdlib>

#include "common/config_words.h"
#include "tests/unit/common/temp_dir.h"

namespace heddle {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

struct Config {
  bool verbose = false;
  int64_t port = 7443;
  uint64_t max_bytes = 1000;
  double rate = 0.5;
  std::string mode = "sync";
  std::string data = "default.txt";
  std::vector<std::string> names = {"x"};
  std::vector<int64_t> sizes = {1, 2};
  std::map<std::string, std::string> extra;
  ConfigSchema schema{"coordinator"};

  Config() {
    schema.Bind("verbose", &verbose);
    schema.Bind("listen.port", &port, {.help = "TCP port", .min = 0, .max = 65535});
    schema.Bind("limits.max_bytes", &max_bytes, {.help = "bytes", .min = 1});
    schema.Bind("train.learning_rate", &rate, {.help = "step", .max = 10});
    schema.Bind("train.mode", &mode, {.help = "how", .choices = {"sync", "async"}});
    schema.Bind("data.path", &data, {.help = "where", .is_path = true});
    schema.Bind("listen.server_names", &names, {.help = "names", .min = 1, .max = 3});
    schema.Bind("sizes", &sizes);
    schema.BindTable("extra", &extra, "anything");
  }
  Status Load(std::string_view toml, const std::map<std::string, std::string>& overrides = {},
              bool use_environment = false) {
    return schema.LoadText(toml, "c.toml", overrides, use_environment);
  }
  std::string Errors(std::string_view toml) { return Load(toml).message(); }
};

TEST(Config, ReadsEveryType) {
  Config c;
  Status status = c.Load(R"(
verbose = true
sizes = [3, 4]
[listen]
port = 80
server_names = ["a", "b"]
[limits]
max_bytes = 5
[train]
learning_rate = 1
mode = "async"
)");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(c.verbose);
  EXPECT_EQ(c.port, 80);
  EXPECT_EQ(c.max_bytes, 5U);
  EXPECT_EQ(c.rate, 1.0) << "a whole number is a number";
  EXPECT_EQ(c.mode, "async");
  EXPECT_THAT(c.names, ElementsAre("a", "b"));
  EXPECT_THAT(c.sizes, ElementsAre(3, 4));
  EXPECT_EQ(c.data, "default.txt") << "what the file does not name keeps its default";
}

TEST(Config, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  Environment environment("HEDDLE_LISTEN_PORT", "3");
  const char* file = "listen.port = 2";
  auto port = [](std::string_view toml, const std::map<std::string, std::string>& flags, bool use_environment) {
    Config c;
    Status status = c.Load(toml, flags, use_environment);
    EXPECT_TRUE(status.ok()) << status;
    return c.port;
  };
  EXPECT_EQ(port("", {}, false), 7443);
  EXPECT_EQ(port(file, {}, false), 2);
  EXPECT_EQ(port(file, {}, true), 3);
  EXPECT_EQ(port(file, {{"listen.port", "4"}}, true), 4);
  EXPECT_EQ(port("", {{"listen.port", "4"}}, false), 4);
}

TEST(Config, EnvironmentAndFlagsTakeBareTextsAndListsWithCommas) {
  Environment names("HEDDLE_LISTEN_SERVER_NAMES", "a,b c");
  Environment mode("HEDDLE_TRAIN_MODE", "async");
  Environment rate("HEDDLE_TRAIN_LEARNING_RATE", "3e-4");
  Config c;
  Status status =
      c.Load("", {{"sizes", "5,6"}, {"verbose", "true"}, {"data.path", "with \"quotes\" \\ and = [x]"}}, true);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(c.names, ElementsAre("a", "b c"));
  EXPECT_EQ(c.mode, "async");
  EXPECT_EQ(c.rate, 3e-4);
  EXPECT_THAT(c.sizes, ElementsAre(5, 6));
  EXPECT_EQ(c.data, "with \"quotes\" \\ and = [x]");
  Config d;
  ASSERT_TRUE(d.Load("", {{"listen.server_names", "[\"q\", \"r,s\"]"}}).ok());
  EXPECT_THAT(d.names, ElementsAre("q", "r,s"));
}

TEST(Config, AFlagCannotSmuggleInASecondKey) {
  Config c;
  EXPECT_THAT(c.Load("", {{"listen.port", "1\nverbose = true"}}).message(), HasSubstr("is not a whole number"));
  EXPECT_FALSE(c.verbose);
}

TEST(Config, MistakesInEnvironmentAndFlagsSayWhereTheyAre) {
  Environment port("HEDDLE_LISTEN_PORT", "many");
  Config c;
  std::string message = c.Load("", {{"train.learning_rate", "fast"}, {"no.such", "1"}}, true).message();
  EXPECT_THAT(message, HasSubstr("environment HEDDLE_LISTEN_PORT: listen.port: 'many' is not a whole number"));
  EXPECT_THAT(message, HasSubstr("flag: train.learning_rate: 'fast' is not a number"));
  EXPECT_THAT(message, HasSubstr("flag: no.such: this key does not exist"));
}

TEST(Config, AVariableThatIsNearlyOneOfOursIsAMistake) {
  Environment mistyped("HEDDLE_LISTEN_PROT", "3"), foreign("HEDDLE_SOMETHING_ELSE", "3");
  Config c;
  const std::string message = c.Load("", {}, true).message();
  EXPECT_THAT(message, HasSubstr("HEDDLE_LISTEN_PROT"));
  EXPECT_THAT(message, HasSubstr("did you mean 'HEDDLE_LISTEN_PORT'?"));
  EXPECT_THAT(message, Not(HasSubstr("HEDDLE_SOMETHING_ELSE")));
  EXPECT_TRUE(c.Load("", {}, false).ok()) << "where the environment is not read";
}

TEST(Config, AllMistakesAreReportedAtOnceWithTheirLines) {
  Config c;
  Status status = c.Load(R"(verbose = 1
[listen]
port = 70000
[train]
learning_rat = 0.1
mode = "asink"
)");
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the coordinator configuration has 4 mistakes"));
  EXPECT_THAT(status.message(), HasSubstr("\n  c.toml:1: verbose: it must be true or false"));
  EXPECT_THAT(status.message(),
              HasSubstr("\n  c.toml:3: listen.port: 70000 is out of range; it must be from 0 to 65535"));
  EXPECT_THAT(
      status.message(),
      HasSubstr("\n  c.toml:5: train.learning_rat: this key does not exist; did you mean 'train.learning_rate'?"));
  EXPECT_THAT(status.message(),
              HasSubstr("\n  c.toml:6: train.mode: 'asink' is not one of sync, async; did you mean 'async'?"));
}

TEST(Config, ARightKeyInAWrongTableIsFound) {
  Config c;
  EXPECT_THAT(c.Errors("[server]\nmax_bytes = 1"), HasSubstr("server: this key does not exist"));
  EXPECT_THAT(c.Errors("[listen]\nmax_bytes = 1"), HasSubstr("did you mean 'limits.max_bytes'?"));
}

TEST(Config, WrongTypesAreRefusedAndNotConverted) {
  for (const char* toml :
       {"listen.port = 1.0", "listen.port = \"1\"", "listen.port = true", "verbose = \"true\"", "train.mode = 1",
        "sizes = [1, \"2\"]", "sizes = [1.5]", "sizes = 1", "listen.server_names = \"a\"", "limits.max_bytes = -1",
        "train.learning_rate = \"1\"", "listen = 5", "extra = 5", "listen.port = {}", "listen.port = 2021-01-01"}) {
    Config c;
    EXPECT_THAT(c.Errors(toml), HasSubstr("it must be")) << toml;
  }
}

TEST(Config, RangesAreInclusiveAndHoldForNumbersAndLengths) {
  for (const char* good : {"listen.port = 0", "listen.port = 65535", "limits.max_bytes = 1", "train.learning_rate = 10",
                           "listen.server_names = [\"a\", \"b\", \"c\"]"}) {
    Config c;
    EXPECT_TRUE(c.Load(good).ok()) << good;
  }
  Config c;
  EXPECT_THAT(c.Errors("listen.port = -1"), HasSubstr("from 0 to 65535"));
  EXPECT_THAT(c.Errors("limits.max_bytes = 0"), HasSubstr("it must be at least 1"));
  EXPECT_THAT(c.Errors("train.learning_rate = 10.5"), HasSubstr("10.5 is out of range; it must be at most 10"));
  EXPECT_THAT(c.Errors("listen.server_names = []"), HasSubstr("a length of 0 is out of range"));
}

TEST(Config, NumbersMustBeFinite) {
  for (const char* toml : {"train.learning_rate = nan", "train.learning_rate = inf", "train.learning_rate = -inf"}) {
    Config c;
    EXPECT_THAT(c.Errors(toml), HasSubstr("it must be a finite number")) << toml;
  }
}

TEST(Config, KebabKeysAreAliases) {
  Config c;
  Status status = c.Load("[train]\nlearning-rate = 2\n", {{"limits.max-bytes", "9"}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(c.rate, 2);
  EXPECT_EQ(c.max_bytes, 9U);
}

TEST(Config, AKeyAndItsAliasTogetherAreAMistake) {
  Config c;
  EXPECT_THAT(c.Errors("[train]\nlearning-rate = 2\nlearning_rate = 3\n"),
              HasSubstr("c.toml:2: train.learning_rate: this key stands twice"));
}

TEST(Config, ARequiredKeyMustComeFromSomewhere) {
  std::string name;
  auto load = [&](std::string_view toml, const std::map<std::string, std::string>& flags) {
    ConfigSchema schema("client");
    schema.Bind("host", &name, {.help = "the coordinator's name", .required = true});
    return schema.LoadText(toml, "c.toml", flags);
  };
  EXPECT_THAT(load("", {}).message(), HasSubstr("c.toml: host: this key is required: the coordinator's name"));
  EXPECT_TRUE(load("host = \"h\"", {}).ok());
  EXPECT_TRUE(load("", {{"host", "h"}}).ok());
}

TEST(Config, TextThatIsNotTomlIsRefusedWithItsLine) {
  Config c;
  EXPECT_THAT(c.Errors("\n\nlisten = {"), HasSubstr("c.toml:3: this is not valid TOML"));
  EXPECT_THAT(c.Errors("a = 1\na = 2"), HasSubstr("not valid TOML"));
  EXPECT_THAT(c.Errors("a = \"\xFF\""), HasSubstr("not valid TOML"));
  std::string parts;
  for (int i = 0; i < 100'000; ++i) parts += "a.";
  EXPECT_THAT(c.Errors("\n" + parts + "a = 1"),
              HasSubstr("c.toml:2: this is not valid TOML: a key has too many parts"));
  EXPECT_EQ(c.Load("x = " + std::string(100'000, '[')).code(), Code::kInvalidArgument);
  // A little in each of many tables within one another, a line and a comma in between.
  std::string nested = "x = [";
  for (int i = 0; i < 200; ++i) nested += "0,\n{" + parts.substr(0, 1600) + "a = [\"]]]}}}\", ";
  EXPECT_THAT(c.Errors(nested), HasSubstr("c.toml:3: this is not valid TOML: a key has too many parts"));
}

TEST(Config, PointsInTextsAndListsAreNoParts) {
  const std::string points(5000, '.');
  for (const std::string& text :
       {"a = \"" + points + "\"", "a = \"\\\"" + points + "\"", "a = '''" + points + "\n''' # " + points,
        "a = \"\"\"\\\"\"\" \" " + points + "\"\"\"", "'" + points + "' = 1"}) {
    EXPECT_EQ(LineTooDeep(text), 0u) << text.substr(0, 20);
  }
  for (const std::string quotes : {"\"\"\"\"", "\"\"\"\"\"", "''''", "'''''"}) {
    const std::string text = "a = {s = " + quotes.substr(0, 3) + "x" + quotes + ", b" + points + "= 1}";
    EXPECT_EQ(LineTooDeep(text), 1u) << "a text may end in quotes of its own: " << quotes;
  }
  std::string list = "a = [";
  for (int i = 0; i < 5000; ++i) list += "0.5, ";
  EXPECT_EQ(LineTooDeep(list + "]"), 0u);
  EXPECT_EQ(LineTooDeep("a = '.'\nb.c = 1\n" + std::string(1001, '.')), 3u);
  for (const char* cut_off : {"", "\"", "'''", "\"\\", "#", "]]"}) EXPECT_EQ(LineTooDeep(cut_off), 0u) << cut_off;
}

TEST(Config, AFreeTableCollectsItsKeysAsText) {
  Config c;
  Status status = c.Load("[extra]\na = 1\nb-c = \"t\"\nd = 0.25\n[extra.deep]\ne = true\n",
                         {{"extra.a", "2"}, {"extra.deep.f", "g"}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(c.extra, (std::map<std::string, std::string>{
                         {"a", "2"}, {"b_c", "t"}, {"d", "0.25"}, {"deep.e", "true"}, {"deep.f", "g"}}));
}

TEST(Config, AFlagGivesAFreeTableWhole) {
  Config c;
  const Status status = c.Load("[extra]\na = 1\n", {{"extra", "{ \"b.c\" = 2, d = {e = \"t\"} }"}, {"extra.f", "3"}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(c.extra, (std::map<std::string, std::string>{{"b.c", "2"}, {"d.e", "t"}, {"f", "3"}}));
  EXPECT_THAT(c.schema.ShowResolved(), HasSubstr("extra.b.c = \"2\"  # source: flag"));
  for (const char* wrong : {"5", "{ a = 1", "{}\nw = 1", "a=1"}) {
    Config refused;
    EXPECT_THAT(refused.Load("", {{"extra", wrong}}).message(), HasSubstr("is not a table: write { name = value }"))
        << wrong;
  }
}

TEST(Config, ANumberInQuotesIsToldToBeWithoutThem) {
  Config c;
  EXPECT_THAT(c.Errors("listen.port = \"1\""), HasSubstr("it must be a whole number, without quotes"));
  EXPECT_THAT(c.Load("", {{"listen.port", "\"1\""}}).message(), HasSubstr(", without quotes"));
  EXPECT_THAT(c.Errors("verbose = \"true\""), HasSubstr("it must be true or false, without quotes"));
  EXPECT_THAT(c.Errors("listen.server_names = \"a\""), Not(HasSubstr("without quotes")));
}

TEST(Config, PathsOfAFileLieBesideItAndThoseOfAFlagWhereItWasTyped) {
  TempDir dir;
  dir.Write("c.toml", "data.path = \"sub/../d.txt\"");
  Config c;
  ASSERT_TRUE(c.schema.LoadFile(dir / "c.toml", {}, false).ok());
  EXPECT_EQ(c.data, (dir / "d.txt").string());
  dir.Write("abs.toml", "data.path = \"/x/y\"");
  Config absolute;
  ASSERT_TRUE(absolute.schema.LoadFile(dir / "abs.toml", {}, false).ok());
  EXPECT_EQ(absolute.data, "/x/y");
  Config flag;
  ASSERT_TRUE(flag.schema.LoadFile(dir / "c.toml", {{"data.path", "here.txt"}}, false).ok());
  EXPECT_EQ(flag.data, "here.txt");
}

TEST(Config, TextTakesItsFolderFromSetFolder) {
  Config c;
  ASSERT_TRUE(c.Load("data.path = \"d.txt\"").ok());
  EXPECT_EQ(c.data, "d.txt");
  c.schema.SetFolder("/base");
  ASSERT_TRUE(c.Load("data.path = \"d.txt\"").ok());
  EXPECT_EQ(c.data, "/base/d.txt");
}

TEST(Config, AMissingFileIsNotFound) {
  Config c;
  EXPECT_EQ(c.schema.LoadFile("/no/such/c.toml").code(), Code::kNotFound);
}

TEST(Config, ShowResolvedNamesTheSourceOfEachValue) {
  Environment mode("HEDDLE_TRAIN_MODE", "async");
  Config c;
  ASSERT_TRUE(
      c.Load("listen.port = 80\ntrain.learning_rate = 3e-4\n[extra]\nk = \"v\"\n", {{"verbose", "true"}}, true).ok());
  EXPECT_EQ(c.schema.ShowResolved(),
            "data.path = \"default.txt\"  # source: default\n"
            "extra.k = \"v\"  # source: file\n"
            "limits.max_bytes = 1000  # source: default\n"
            "listen.port = 80  # source: file\n"
            "listen.server_names = [\"x\"]  # source: default\n"
            "sizes = [1,2]  # source: default\n"
            "train.learning_rate = 3e-04  # source: file\n"
            "train.mode = \"async\"  # source: environment\n"
            "verbose = true  # source: flag\n");
}

TEST(Config, SaysWhichKeysWereGiven) {
  Config c;
  ASSERT_TRUE(c.Load("listen.port = 80\n", {{"verbose", "true"}}).ok());
  EXPECT_TRUE(c.schema.WasGiven("listen.port"));
  EXPECT_TRUE(c.schema.WasGiven("verbose"));
  EXPECT_FALSE(c.schema.WasGiven("limits.max_bytes"));
  EXPECT_FALSE(c.schema.WasGiven("no.such_key"));
}

TEST(Config, ResolvedJsonIsNestedAndSorted) {
  Config c;
  ASSERT_TRUE(c.Load("[extra]\nk = \"v\"\n").ok());
  std::string text = c.schema.ResolvedJson();
  EXPECT_EQ(boost::json::parse(text),
            boost::json::parse(R"({"data":{"path":"default.txt"},"extra":{"k":"v"},"limits":{"max_bytes":1000},
              "listen":{"port":7443,"server_names":["x"]},"sizes":[1,2],
              "train":{"learning_rate":0.5,"mode":"sync"},"verbose":false})"));
  EXPECT_LT(text.find("\"extra\""), text.find("\"limits\""));
  EXPECT_LT(text.find("\"port\""), text.find("\"server_names\""));
}

TEST(Config, DescribeListsKeysTypesDefaultsAndHelp) {
  std::string text = Config().schema.Describe();
  EXPECT_THAT(text, HasSubstr("listen.port  (a whole number, now 7443)\n    TCP port\n"));
  EXPECT_THAT(text, HasSubstr("extra.*  (table)\n    anything\n"));
  EXPECT_THAT(text, Not(HasSubstr("required")));
}

TEST(ConfigDeathTest, BindingAKeyTwiceIsABug) {
  Config c;
  EXPECT_DEATH(c.schema.Bind("verbose", &c.verbose), "bound twice");
}

}  // namespace
}  // namespace heddle
