#include "simulator/partition/split.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <set>

#include "common/file.h"
#include "common/random.h"
#include "simulator/partition/clusters.h"
#include "simulator/partition/draws.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// `bare`: fields that examples which are not among the `labelled` lose.
struct Labelling {
  std::set<int64_t> labelled;
  std::vector<std::string> bare;
};

Result<std::string> ExampleOf(const LabelledData& data, int64_t example, const Labelling& labelling) {
  HEDDLE_ASSIGN_OR_RETURN(std::string line, data.Example(example));
  if (labelling.bare.empty() || labelling.labelled.contains(example)) return line;
  json::error_code error;
  json::value value = json::parse(line, error);
  if (error || !value.is_object())
    return InvalidArgument("an example is no JSON object whose label could be taken off");
  for (const std::string& field : labelling.bare) value.get_object().erase(field);
  return json::serialize(value);
}

// Returns the file's path.
Result<fs::path> WriteExamples(const LabelledData& data, const std::vector<int64_t>& examples, const fs::path& stem,
                               ExampleFile* also, const Labelling& labelling = {}) {
  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<ExampleFile> file, data.NewFile(stem));
  for (const int64_t number : examples) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string example, ExampleOf(data, number, labelling));
    HEDDLE_RETURN_IF_ERROR(file->Add(example));
    if (also != nullptr) HEDDLE_RETURN_IF_ERROR(also->Add(example));
  }
  HEDDLE_RETURN_IF_ERROR(file->Finish());
  return file->path();
}

// The first `count` of `order`, ascending.
std::vector<int64_t> First(std::vector<int64_t> order, int64_t count) {
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

int64_t Share(double fraction, int64_t size) {
  return static_cast<int64_t>(std::floor(fraction * static_cast<double>(size) + 0.5));
}

int64_t AtMost(int64_t size, int64_t limit) { return limit > 0 ? std::min(size, limit) : size; }

class Splitter {
 public:
  Splitter(const SplitOptions& options, fs::path folder) : options_(options), folder_(std::move(folder)) {}
  Result<Split> Run();

 private:
  PhiloxStream StreamOf(const char* purpose) const {
    return PhiloxStream(DeriveSeed(options_.partition.seed, "split", purpose));
  }
  Status Choose(const LabelledData& data);
  Status WriteTest(const LabelledData& data);
  Result<std::vector<std::vector<int64_t>>> Deal(const LabelledData& data);
  Status HoldOut(const LabelledData& data, size_t d, std::vector<int64_t>* mine);
  Result<Labelling> ChooseLabelled(const std::vector<std::vector<int64_t>>& parts) const;
  Status WriteDevices(const LabelledData& data, std::vector<std::vector<int64_t>> parts);
  Status WriteSummary(const LabelledData& data) const;

  const SplitOptions& options_;
  fs::path folder_;
  std::vector<int64_t> pool_, held_out_;      // examples for the devices, and for the test of all
  std::vector<std::vector<int64_t>> counts_;  // by device and label
  Split split_;
};

Status Splitter::Choose(const LabelledData& data) {
  PhiloxStream stream = StreamOf("choose");
  std::vector<int64_t> order = DrawOrder(data.size(), stream);
  const int64_t test = options_.test_files.empty() ? Share(options_.test_fraction, data.size()) : 0;
  held_out_ = First({order.begin(), order.begin() + test}, AtMost(test, options_.max_test_examples));
  order.erase(order.begin(), order.begin() + test);
  const auto rest = static_cast<int64_t>(order.size());
  pool_ = First(std::move(order), AtMost(rest, options_.max_examples));
  return OkStatus();
}

Status Splitter::WriteTest(const LabelledData& data) {
  const fs::path stem = folder_ / "test";
  if (!options_.test_files.empty()) {
    LabelledSource source = options_.source;
    source.files = options_.test_files;
    source.label_names = data.label_names();
    source.needs_labels = !data.labels().empty() || data.has_numbers();
    source.group_field.clear();
    auto test = LabelledData::Open(source);
    if (!test.ok()) return test.status().Annotate("the test data");
    PhiloxStream stream = StreamOf("test");
    held_out_ = First(DrawOrder(test->size(), stream), AtMost(test->size(), options_.max_test_examples));
    if (test->has_pictures() != data.has_pictures())
      return InvalidArgument("the test data: they are pictures, or the examples are, and not both");
    HEDDLE_ASSIGN_OR_RETURN(split_.test, WriteExamples(*test, held_out_, stem, nullptr));
  } else if (!held_out_.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(split_.test, WriteExamples(data, held_out_, stem, nullptr));
  }
  split_.num_test = static_cast<int64_t>(held_out_.size());
  return OkStatus();
}

Result<std::vector<std::vector<int64_t>>> Splitter::Deal(const LabelledData& data) {
  PartitionOptions partition = options_.partition;
  partition.num_devices = static_cast<int64_t>(options_.devices.size());
  PartitionInput input;
  input.num_examples = static_cast<int64_t>(pool_.size());
  if (PartitionNeedsClusters(partition.method)) {
    input.num_labels = static_cast<int32_t>(std::min(options_.clusters, input.num_examples));
    HEDDLE_ASSIGN_OR_RETURN(input.labels,
                            ClusterTexts(input.num_examples, input.num_labels, partition.seed,
                                         [&](int64_t i) { return data.Text(pool_[static_cast<size_t>(i)]); }));
  } else if (!data.labels().empty()) {
    input.num_labels = static_cast<int32_t>(data.label_names().size());
    for (const int64_t example : pool_) input.labels.push_back(data.labels()[static_cast<size_t>(example)]);
  }
  if (!data.groups().empty()) {
    // Groups of which nothing was chosen are none.
    std::vector<int32_t> number(data.group_names().size(), -1);
    for (const int64_t example : pool_) {
      int32_t& mine = number[static_cast<size_t>(data.groups()[static_cast<size_t>(example)])];
      if (mine < 0) mine = input.num_groups++;
      input.groups.push_back(mine);
    }
  }
  return Partition(input, partition);
}

// Which of the devices' examples keep their labels.
Result<Labelling> Splitter::ChooseLabelled(const std::vector<std::vector<int64_t>>& parts) const {
  if (options_.labelled_examples == 0 && options_.labelled_devices == 0) return Labelling{};
  Labelling out;
  out.bare = {"label", options_.source.label_field};
  const auto count = static_cast<int64_t>(parts.size());
  PhiloxStream stream = StreamOf("labelled devices");
  const std::vector<int64_t> devices = First(DrawOrder(count, stream), AtMost(count, options_.labelled_devices));
  std::vector<std::vector<int64_t>> orders;
  int64_t available = 0;
  for (const int64_t d : devices) {
    const std::vector<int64_t>& part = parts[static_cast<size_t>(d)];
    const auto size = static_cast<int64_t>(part.size());
    PhiloxStream order(DeriveSeed(options_.partition.seed, "split", "labelled examples"), static_cast<uint64_t>(d));
    std::vector<int64_t>& mine = orders.emplace_back();
    for (const int64_t i : DrawOrder(size, order)) mine.push_back(part[static_cast<size_t>(i)]);
    available += size;
  }
  if (options_.labelled_examples > available) {
    return InvalidArgument("labelled_examples: the " + std::to_string(devices.size()) + " devices have " +
                           std::to_string(available) + " examples together, which is less");
  }
  int64_t left = AtMost(available, options_.labelled_examples);
  for (size_t k = 0; left > 0; ++k) {  // one a device, again and again
    for (const std::vector<int64_t>& mine : orders) {
      if (k >= mine.size() || left == 0) continue;
      out.labelled.insert(mine[k]);
      --left;
    }
  }
  return out;
}

// What a device is tested on leaves its part.
Status Splitter::HoldOut(const LabelledData& data, size_t d, std::vector<int64_t>* mine) {
  const auto size = static_cast<int64_t>(mine->size());
  if (size < 2) {
    return InvalidArgument("device_test_fraction: " + options_.devices[d] +
                           " has one example only; ask for a larger min_examples");
  }
  const int64_t tests = std::clamp<int64_t>(Share(options_.device_test_fraction, size), 1, size - 1);
  PhiloxStream stream(DeriveSeed(options_.partition.seed, "split", "device test"), d);
  std::vector<int64_t> order = DrawOrder(size, stream);
  std::sort(order.begin(), order.begin() + tests);
  std::sort(order.begin() + tests, order.end());
  std::vector<int64_t> test, rest;
  for (const int64_t i : order) {
    (static_cast<int64_t>(test.size()) < tests ? test : rest).push_back((*mine)[static_cast<size_t>(i)]);
  }
  *mine = std::move(rest);
  HEDDLE_ASSIGN_OR_RETURN(fs::path path, WriteExamples(data, test, folder_ / (options_.devices[d] + ".test"), nullptr));
  split_.device_test.push_back(std::move(path));
  return OkStatus();
}

Status Splitter::WriteDevices(const LabelledData& data, std::vector<std::vector<int64_t>> parts) {
  for (size_t d = 0; d < parts.size(); ++d) {
    for (int64_t& i : parts[d]) i = pool_[static_cast<size_t>(i)];
    if (options_.device_test_fraction > 0) HEDDLE_RETURN_IF_ERROR(HoldOut(data, d, &parts[d]));
  }
  HEDDLE_ASSIGN_OR_RETURN(const Labelling labelling, ChooseLabelled(parts));
  HEDDLE_ASSIGN_OR_RETURN(const std::unique_ptr<ExampleFile> all, data.NewFile(folder_ / "all"));
  split_.all = all->path();
  for (size_t d = 0; d < parts.size(); ++d) {
    counts_.emplace_back(data.label_names().size(), 0);
    for (const int64_t example : parts[d]) {
      if (!data.labels().empty()) ++counts_.back()[static_cast<size_t>(data.labels()[static_cast<size_t>(example)])];
    }
    split_.sizes.push_back(static_cast<int64_t>(parts[d].size()));
    HEDDLE_ASSIGN_OR_RETURN(fs::path path,
                            WriteExamples(data, parts[d], folder_ / options_.devices[d], all.get(), labelling));
    split_.train.push_back(std::move(path));
  }
  return all->Finish();
}

Status Splitter::WriteSummary(const LabelledData& data) const {
  json::array devices;
  for (size_t d = 0; d < options_.devices.size(); ++d) {
    json::object device = {{"device", options_.devices[d]}, {"num_examples", split_.sizes[d]}};
    if (!data.labels().empty()) device["labels"] = json::array(counts_[d].begin(), counts_[d].end());
    devices.push_back(std::move(device));
  }
  json::object summary = {{"partition", options_.partition.method},
                          {"num_test", split_.num_test},
                          {"label_names", json::array(data.label_names().begin(), data.label_names().end())},
                          {"devices", std::move(devices)}};
  return WriteFileAtomically(folder_ / "split.json", json::serialize(summary) + "\n");
}

Result<Split> Splitter::Run() {
  LabelledSource source = options_.source;
  source.needs_labels = source.needs_labels || PartitionNeedsLabels(options_.partition.method);
  if (PartitionNeedsGroups(options_.partition.method) && source.group_field.empty()) {
    return InvalidArgument("the partition '" + options_.partition.method +
                           "' needs the name of the field that says whose an example is");
  }
  HEDDLE_ASSIGN_OR_RETURN(const LabelledData data, LabelledData::Open(std::move(source)));
  if (PartitionNeedsLabels(options_.partition.method) && data.has_numbers()) {
    return InvalidArgument("the partition '" + options_.partition.method +
                           "' needs classes, and the labels are numbers to be predicted");
  }
  if (data.has_pictures() && (options_.labelled_examples > 0 || options_.labelled_devices > 0))
    return InvalidArgument("labelled_examples and labelled_devices: pictures cannot go without their labels");
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder_));
  HEDDLE_RETURN_IF_ERROR(Choose(data));
  HEDDLE_ASSIGN_OR_RETURN(auto parts, Deal(data));
  HEDDLE_RETURN_IF_ERROR(WriteTest(data));
  HEDDLE_RETURN_IF_ERROR(WriteDevices(data, std::move(parts)));
  split_.label_names = data.label_names();
  HEDDLE_RETURN_IF_ERROR(WriteSummary(data));
  return std::move(split_);
}

}  // namespace

Result<Split> WriteSplit(const SplitOptions& options, const fs::path& folder) {
  return Splitter(options, folder).Run();
}

}  // namespace heddle::simulator
