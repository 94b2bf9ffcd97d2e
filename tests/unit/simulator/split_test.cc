// Data sets as files of simulated devices: what is read, and what each device is given.
#include "simulator/partition/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <set>
#include <sstream>

#include "model/data/image_records.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/data/idx_bytes.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::vector<json::object> Lines(const fs::path& path) {
  std::vector<json::object> lines;
  std::istringstream text(Slurp(path));
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line).as_object());
  return lines;
}

std::string TextOf(const json::object& line) { return json::value_to<std::string>(line.at("text")); }

class SplitTest : public ::testing::Test {
 protected:
  // "text <i>" of the labels a, b, c in turn, by one of five writers.
  SplitOptions Options(int devices, int examples = 120) {
    std::string rows = "label\twriter\tsentence\n";
    for (int i = 0; i < examples; ++i) {
      rows += std::string(1, static_cast<char>('a' + i % 3)) + "\twriter " + std::to_string(i % 5) + "\ttext " +
              std::to_string(i) + "\n";
    }
    SplitOptions options;
    options.source.files = {folder_.Write("all.tsv", rows)};
    for (int d = 0; d < devices; ++d) options.devices.push_back("d" + std::to_string(d));
    return options;
  }
  Split Write(const SplitOptions& options, const std::string& to = "out") {
    auto split = WriteSplit(options, folder_ / to);
    EXPECT_TRUE(split.ok()) << split.status();
    return split.ok() ? *split : Split();
  }
  std::string Error(const SplitOptions& options) {
    const auto split = WriteSplit(options, folder_ / "error");
    EXPECT_FALSE(split.ok());
    return split.ok() ? "" : split.status().message();
  }

  TempDir folder_;
};

TEST_F(SplitTest, DevicesAndTestShareTheExamplesWithoutOverlap) {
  SplitOptions options = Options(7);
  options.test_fraction = 0.1;
  options.device_test_fraction = 0.25;
  options.partition.method = "dirichlet";
  options.partition.alpha = 0.3;
  options.partition.min_examples = 4;
  const Split split = Write(options);
  EXPECT_EQ(split.num_test, 12);
  EXPECT_EQ(split.label_names, (std::vector<std::string>{"a", "b", "c"}));
  std::multiset<std::string> seen;
  std::multiset<std::string> trained;
  for (const json::object& line : Lines(split.test)) seen.insert(TextOf(line));
  ASSERT_EQ(split.train.size(), 7U);
  ASSERT_EQ(split.device_test.size(), 7U);
  for (size_t d = 0; d < 7; ++d) {
    const auto train = Lines(split.train[d]), test = Lines(split.device_test[d]);
    EXPECT_EQ(static_cast<int64_t>(train.size()), split.sizes[d]);
    EXPECT_NEAR(static_cast<double>(test.size()), 0.25 * static_cast<double>(train.size() + test.size()), 1.0);
    EXPECT_GE(test.size(), 1U);
    for (const auto& line : train) trained.insert(TextOf(line));
    for (const auto* lines : {&train, &test}) {
      for (const auto& line : *lines) {
        seen.insert(TextOf(line));
        const int number = std::stoi(TextOf(line).substr(5));
        EXPECT_EQ(line.at("label").as_int64(), number % 3);
      }
    }
  }
  EXPECT_EQ(seen.size(), 120U);
  EXPECT_EQ(std::set<std::string>(seen.begin(), seen.end()).size(), 120U);
  std::multiset<std::string> all;
  for (const json::object& line : Lines(split.all)) all.insert(TextOf(line));
  EXPECT_EQ(all, trained);
  const json::object summary = json::parse(Slurp(folder_ / "out" / "split.json")).as_object();
  int64_t counted = 0;
  for (const json::value& device : summary.at("devices").as_array()) {
    for (const json::value& count : device.at("labels").as_array()) counted += count.as_int64();
  }
  EXPECT_EQ(counted, static_cast<int64_t>(trained.size()));
}

TEST_F(SplitTest, TheSameSeedWritesTheSameBytes) {
  SplitOptions options = Options(4);
  options.partition.method = "dirichlet";
  options.test_fraction = 0.2;
  Write(options, "one");
  Write(options, "two");
  options.partition.seed = 9;
  Write(options, "three");
  for (const char* name : {"d0.jsonl", "d3.jsonl", "all.jsonl", "test.jsonl", "split.json"}) {
    EXPECT_EQ(Slurp(folder_ / "one" / name), Slurp(folder_ / "two" / name)) << name;
  }
  EXPECT_NE(Slurp(folder_ / "one" / "d0.jsonl"), Slurp(folder_ / "three" / "d0.jsonl"));
  EXPECT_NE(Slurp(folder_ / "one" / "test.jsonl"), Slurp(folder_ / "three" / "test.jsonl"));
}

TEST_F(SplitTest, NaturalDevicesAreWritersAndTheRestIsChosenBySeed) {
  SplitOptions options = Options(5);
  options.partition.method = "natural";
  options.source.group_field = "writer";
  const Split split = Write(options);
  for (const fs::path& path : split.train) {
    std::set<int> writers;
    for (const json::object& line : Lines(path)) writers.insert(std::stoi(TextOf(line).substr(5)) % 5);
    EXPECT_EQ(writers.size(), 1U) << path;
  }
  options.max_examples = 60;
  int64_t sum = 0;
  for (const int64_t size : Write(options, "some").sizes) sum += size;
  EXPECT_EQ(sum, 60);
}

TEST_F(SplitTest, TestFilesMayCallTheirTextOtherwiseAndLabelsMeanTheSame) {
  SplitOptions options = Options(2);
  options.test_files = {folder_.Write("test.csv", "content,label\n\"one, two\",c\nthree,a\nfour,b\n")};
  const Split split = Write(options);
  const auto lines = Lines(split.test);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(TextOf(lines[0]), "one, two");
  EXPECT_EQ(lines[0].at("label").as_int64(), 2);
  EXPECT_EQ(lines[1].at("label").as_int64(), 0);
  options.max_test_examples = 2;
  EXPECT_EQ(Lines(Write(options, "two").test).size(), 2U);
  options.test_files = {folder_.Write("wrong.csv", "text,label\nx,d\n")};
  EXPECT_NE(Error(options).find("wrong.csv"), std::string::npos);
}

TEST_F(SplitTest, LabelsAreNumberedAsAskedElseInTheirOrder) {
  LabelledSource source;
  source.files = {folder_.Write("a.csv", "10,x\n9,y\n10,z\n"), folder_.Write("b.csv", "2,w\n")};
  source.columns = {"label", "text"};
  auto data = LabelledData::Open(source);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->label_names(), (std::vector<std::string>{"2", "9", "10"}));
  EXPECT_EQ(data->labels(), (std::vector<int32_t>{2, 1, 2, 0}));
  EXPECT_EQ(*data->Example(3), R"({"text":"w","label":0})");
  source.label_names = {"10", "9", "2"};
  EXPECT_EQ(LabelledData::Open(source)->labels(), (std::vector<int32_t>{0, 1, 0, 2}));
  source.label_names = {"10", "9"};
  EXPECT_FALSE(LabelledData::Open(source).ok());
}

TEST_F(SplitTest, PairsCompletionsConversationsAndNumbersKeepTheirForm) {
  const auto line = [&](const std::string& name, const std::string& content, LabelledSource source = {}) {
    source.files = {folder_.Write(name, content)};
    auto data = LabelledData::Open(source);
    EXPECT_TRUE(data.ok()) << data.status();
    return data.ok() ? *data->Example(0) : "";
  };
  EXPECT_EQ(line("pair.tsv", "sentence1\tsentence2\tlabel\na\tb\tyes\n"),
            R"({"sentence1":"a","sentence2":"b","label":0})");
  EXPECT_EQ(line("completion.csv", "prompt,completion\n1+1=,2\n"), R"({"prompt":"1+1=","completion":"2"})");
  const std::string talk =
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]})";
  EXPECT_EQ(line("talk.jsonl", talk + "\n"), talk);
  EXPECT_EQ(line("number.jsonl", "{\"text\": \"a\", \"label\": 2.5}\n"), R"({"text":"a","label":2.5E0})");
  EXPECT_EQ(line("text.txt", "one\ntwo\n\nthree\n"), R"({"text":"one\ntwo"})");
  LabelledSource fields;
  fields.text_fields = {"title", "body"};
  EXPECT_EQ(line("fields.jsonl", "{\"title\": \"a\", \"body\": \"b\", \"label\": true}\n", fields),
            R"({"text":"a b","label":0})");
}

TEST_F(SplitTest, BadInputIsRefusedWithItsFile) {
  SplitOptions options = Options(2);
  options.source.files = {folder_ / "absent.tsv"};
  EXPECT_NE(Error(options).find("absent.tsv"), std::string::npos);
  options.source.files = {};
  EXPECT_NE(Error(options).find("no file"), std::string::npos);
  options = Options(200);
  EXPECT_NE(Error(options).find("too few"), std::string::npos);
  options = Options(2);
  options.source.files = {folder_.Write("bare.txt", "a\n\nb\n\nc\n")};
  options.partition.method = "dirichlet";
  EXPECT_NE(Error(options).find("bare.txt: a text file has no field \"label\""), std::string::npos);
  options = Options(2);
  options.partition.method = "natural";
  EXPECT_NE(Error(options).find("whose an example is"), std::string::npos);
  options.source.group_field = "author";
  EXPECT_NE(Error(options).find("\"author\""), std::string::npos);
  options = Options(2);
  options.source.files = {folder_.Write("holes.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n")};
  EXPECT_NE(Error(options).find("line 2"), std::string::npos);
  options.source.files = {folder_.Write("numbers.csv", "text,label\na,1.5\nb,2\nc,3\n")};
  options.partition.method = "dirichlet";
  EXPECT_NE(Error(options).find("numbers to be predicted"), std::string::npos);
  options = Options(100);
  options.device_test_fraction = 0.5;
  EXPECT_NE(Error(options).find("one example only"), std::string::npos);
}

// ---- pictures ----

// Pictures of 2 x 3 pixels, each with its number in the first two, of ten classes in turn.
fs::path WritePictures(const TempDir& folder, const std::string& name, int count) {
  const auto number = static_cast<uint32_t>(count);
  std::string pixels, labels;
  for (int i = 0; i < count; ++i) {
    pixels += std::string{static_cast<char>(i / 256), static_cast<char>(i % 256)} + "abcd";
    labels += static_cast<char>(i % 10);
  }
  folder.Write(name + "-labels-idx1-ubyte", model::Idx({number}, labels));
  return folder.Write(name + "-images-idx3-ubyte", model::Idx({number, 2, 3}, pixels));
}

// The numbers of a file's pictures, each of which is whole and has its own label; by model/data's reader.
std::vector<int> PicturesIn(const fs::path& path) {
  std::vector<int> numbers;
  const auto records =
      model::ImageRecords::Open(path, {.channels = 1, .height = 2, .width = 3}, model::LabelMap::Classes(10));
  EXPECT_TRUE(records.ok()) << records.status();
  for (int64_t i = 0; records.ok() && i < (*records)->size(); ++i) {
    const auto example = (*records)->Read(i);
    EXPECT_TRUE(example.ok()) << example.status();
    if (!example.ok()) break;
    const std::vector<uint8_t>& pixels = example->image.pixels;
    numbers.push_back(pixels[0] * 256 + pixels[1]);
    EXPECT_EQ(std::string(pixels.begin() + 2, pixels.end()), "abcd");
    EXPECT_EQ(example->label, numbers.back() % 10);
  }
  return numbers;
}

TEST_F(SplitTest, PicturesAreDealtAsPairsThatTasksRead) {
  SplitOptions options;
  options.source.files = {WritePictures(folder_, "one", 300), WritePictures(folder_, "two", 100)};
  options.devices = {"anna", "bert", "carl"};
  options.partition.method = "dirichlet";
  options.partition.alpha = 0.5;
  options.test_fraction = 0.1;
  options.device_test_fraction = 0.2;
  const Split split = Write(options);
  EXPECT_EQ(split.label_names.size(), 10U);
  EXPECT_EQ(split.num_test, 40);
  std::vector<int> trained, seen = PicturesIn(split.test);
  EXPECT_EQ(seen.size(), 40U);
  for (size_t d = 0; d < 3; ++d) {
    const std::vector<int> mine = PicturesIn(split.train[d]), tests = PicturesIn(split.device_test[d]);
    EXPECT_EQ(static_cast<int64_t>(mine.size()), split.sizes[d]);
    EXPECT_FALSE(tests.empty());
    trained.insert(trained.end(), mine.begin(), mine.end());
    seen.insert(seen.end(), tests.begin(), tests.end());
  }
  EXPECT_EQ(PicturesIn(split.all), trained);
  seen.insert(seen.end(), trained.begin(), trained.end());
  std::vector<int> all;
  for (int i = 0; i < 300; ++i) all.push_back(i);
  for (int i = 0; i < 100; ++i) all.push_back(i);
  EXPECT_TRUE(std::is_permutation(seen.begin(), seen.end(), all.begin(), all.end())) << "each is somewhere, once";
  const json::object summary = json::parse(Slurp(folder_ / "out" / "split.json")).as_object();
  int64_t labelled = 0;
  for (const json::value& count : summary.at("devices").at(0).at("labels").as_array()) labelled += count.as_int64();
  EXPECT_EQ(labelled, split.sizes[0]);
  // The same in a folder, and held out from a file of their own.
  const fs::path folder = folder_ / "pairs";
  fs::create_directory(folder);
  for (const char* kind : {"images-idx3", "labels-idx1"}) {
    const std::string name = "one-" + std::string(kind) + "-ubyte";
    fs::copy_file(folder_ / name, folder / name);
  }
  options.source.files = {folder};
  options.test_files = {folder_ / "two-images-idx3-ubyte"};
  EXPECT_EQ(PicturesIn(Write(options, "again").test).size(), 100U);
}

TEST_F(SplitTest, PicturesThatCannotBeDealtAreRefused) {
  SplitOptions options;
  const fs::path one = WritePictures(folder_, "one", 30);
  options.devices = {"anna", "bert"};
  options.source.files = {one, folder_.Write("more.tsv", "text\tlabel\na\t1\n")};
  EXPECT_THAT(Error(options), testing::HasSubstr("texts and pictures"));
  std::swap(options.source.files[0], options.source.files[1]);
  EXPECT_THAT(Error(options), testing::HasSubstr("texts and pictures"));
  options.source.files = {one, folder_ / "."};
  fs::create_directory(folder_ / "png");
  options.source.files[1] = folder_ / "png";
  EXPECT_THAT(Error(options), testing::HasSubstr("only those with an IDX pair"));
  options.source.files = {one};
  options.source.label_names = {"zero", "one"};
  EXPECT_THAT(Error(options), testing::HasSubstr("one-labels-idx1-ubyte: label 3 is 2"));
  options.source.label_names.clear();
  options.source.group_field = "writer";
  EXPECT_THAT(Error(options), testing::HasSubstr("pictures have no fields"));
  options.source.group_field.clear();
  options.partition.method = "kmeans";
  EXPECT_THAT(Error(options), testing::HasSubstr("no texts"));
  options.partition.method = "uniform";
  options.labelled_examples = 3;
  EXPECT_THAT(Error(options), testing::HasSubstr("their labels"));
  options.labelled_examples = 0;
  options.test_files = {folder_.Write("test.tsv", "text\tlabel\na\t1\n")};
  EXPECT_THAT(Error(options), testing::HasSubstr("the test data"));
  fs::remove(folder_ / "one-labels-idx1-ubyte");
  EXPECT_THAT(Error(options), testing::HasSubstr("one-labels-idx1-ubyte"));
}

TEST_F(SplitTest, AFewExamplesOfAFewDevicesKeepTheirLabels) {
  SplitOptions options = Options(6);
  options.labelled_devices = 3;
  options.labelled_examples = 8;
  const Split split = Write(options);
  std::multiset<size_t> labels;
  size_t all_labelled = 0;
  for (const fs::path& path : split.train) {
    const auto lines = Lines(path);
    EXPECT_EQ(lines.size(), 20U);
    const auto count =
        std::count_if(lines.begin(), lines.end(), [](const json::object& l) { return l.contains("label"); });
    labels.insert(static_cast<size_t>(count));
  }
  for (const json::object& line : Lines(split.all)) all_labelled += line.contains("label");
  EXPECT_EQ(labels, (std::multiset<size_t>{0, 0, 0, 2, 3, 3}));
  EXPECT_EQ(all_labelled, 8U);
  // Which ones they are is the seed's doing.
  EXPECT_EQ(Slurp(Write(options, "again").train[0]), Slurp(split.train[0]));
  options.labelled_examples = 61;
  EXPECT_NE(Error(options).find("60 examples together"), std::string::npos);
}

}  // namespace
}  // namespace heddle::simulator
