// Compiled without fused multiply-add: see CMakeLists.txt.
#include "simulator/partition/partition.h"

#include <algorithm>
#include <queue>
#include <set>

#include "common/assert.h"
#include "common/config.h"
#include "simulator/partition/draws.h"

namespace heddle::simulator {
namespace {

using Parts = std::vector<std::vector<int64_t>>;

std::vector<double> Equal(int64_t count) {
  return std::vector<double>(static_cast<size_t>(count), 1.0 / static_cast<double>(count));
}

PhiloxStream StreamOf(const PartitionOptions& options, const char* purpose) {
  return PhiloxStream(DeriveSeed(options.seed, "partition", purpose));
}

// Deals `order` out, sizes[d] in a row to device d.
void Deal(const std::vector<int64_t>& order, const std::vector<int64_t>& sizes, Parts* parts) {
  size_t next = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    for (int64_t i = 0; i < sizes[d]; ++i) (*parts)[d].push_back(order[next++]);
  }
  HEDDLE_ASSERT(next == order.size(), "every example is dealt");
}

// The examples of each label, in an order of the seed.
Parts ByLabel(const PartitionInput& input, const PartitionOptions& options) {
  PhiloxStream stream = StreamOf(options, "order");
  Parts by_label(static_cast<size_t>(input.num_labels));
  for (const int64_t example : DrawOrder(input.num_examples, stream)) {
    by_label[static_cast<size_t>(input.labels[static_cast<size_t>(example)])].push_back(example);
  }
  return by_label;
}

Parts Uniform(const PartitionInput& input, const PartitionOptions& options) {
  PhiloxStream stream = StreamOf(options, "order");
  Parts parts(static_cast<size_t>(options.num_devices));
  Deal(DrawOrder(input.num_examples, stream), Apportion(input.num_examples, Equal(options.num_devices)), &parts);
  return parts;
}

Parts Quantity(const PartitionInput& input, const PartitionOptions& options) {
  PhiloxStream order = StreamOf(options, "order"), shares = StreamOf(options, "shares");
  Parts parts(static_cast<size_t>(options.num_devices));
  const std::vector<double> alphas(static_cast<size_t>(options.num_devices), options.alpha);
  Deal(DrawOrder(input.num_examples, order), Apportion(input.num_examples, DrawDirichlet(alphas, shares)), &parts);
  return parts;
}

// One label in proportion to weights, 0 for those that are used up.
size_t DrawLabel(const std::vector<double>& weights, PhiloxStream& stream) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  double left = OpenUniform(stream) * sum;
  size_t last = 0;
  for (size_t label = 0; label < weights.size(); ++label) {
    if (weights[label] <= 0) continue;
    last = label;
    left -= weights[label];
    if (left < 0) break;
  }
  return last;
}

// Each device's examples, drawn label by label from its own mixture.
void FillFromMixture(const std::vector<double>& mixture, int64_t size, PhiloxStream& stream, Parts* by_label,
                     std::vector<int64_t>* part) {
  for (int64_t i = 0; i < size; ++i) {
    std::vector<double> weights = mixture;
    double sum = 0;
    for (size_t label = 0; label < weights.size(); ++label)
      sum += (*by_label)[label].empty() ? weights[label] = 0 : weights[label];
    if (sum <= 0) {  // all that this device wants is used up: what is left, as it is
      for (size_t label = 0; label < weights.size(); ++label) {
        weights[label] = static_cast<double>((*by_label)[label].size());
      }
    }
    std::vector<int64_t>& from = (*by_label)[DrawLabel(weights, stream)];
    part->push_back(from.back());
    from.pop_back();
  }
}

Parts Dirichlet(const PartitionInput& input, const PartitionOptions& options) {
  Parts by_label = ByLabel(input, options);
  Parts parts(static_cast<size_t>(options.num_devices));
  std::vector<double> concentrations;
  for (const auto& examples : by_label) {
    concentrations.push_back(options.alpha * static_cast<double>(examples.size()) /
                             static_cast<double>(input.num_examples));
  }
  const std::vector<int64_t> sizes = Apportion(input.num_examples, Equal(options.num_devices));
  for (size_t d = 0; d < parts.size(); ++d) {
    // A stream for each device: its mixture does not depend on what others drew.
    PhiloxStream stream(DeriveSeed(options.seed, "partition", "mixture"), d);
    std::vector<double> mixture = DrawDirichlet(concentrations, stream);
    for (size_t label = 0; label < mixture.size(); ++label) {
      if (concentrations[label] <= 0) mixture[label] = 0;
    }
    FillFromMixture(mixture, sizes[d], stream, &by_label, &parts[d]);
  }
  return parts;
}

Parts DirichletClasses(const PartitionInput& input, const PartitionOptions& options) {
  Parts parts(static_cast<size_t>(options.num_devices));
  const Parts by_label = ByLabel(input, options);
  const std::vector<double> alphas(static_cast<size_t>(options.num_devices), options.alpha);
  for (size_t label = 0; label < by_label.size(); ++label) {
    PhiloxStream stream(DeriveSeed(options.seed, "partition", "shares"), label);
    const auto total = static_cast<int64_t>(by_label[label].size());
    Deal(by_label[label], Apportion(total, DrawDirichlet(alphas, stream)), &parts);
  }
  return parts;
}

// Labels that some example has.
std::vector<size_t> LabelsPresent(const PartitionInput& input) {
  const std::set<int32_t> found(input.labels.begin(), input.labels.end());
  return {found.begin(), found.end()};
}

// The labels of each device: one label in turn, so that every label is somewhere, and others at random.
std::vector<std::vector<size_t>> LabelsOfDevices(const PartitionInput& input, const PartitionOptions& options) {
  const std::vector<size_t> present = LabelsPresent(input);
  const size_t labels = present.size(), devices = static_cast<size_t>(options.num_devices);
  const auto each = std::min(labels, static_cast<size_t>(options.labels_per_device));
  std::vector<std::vector<size_t>> of_device(devices);
  // Labels that no device has yet come first; then every label once more, and so on: all are about equally common.
  size_t next = 0;
  for (size_t d = 0; d < devices; ++d) of_device[d].push_back(present[next++ % labels]);
  PhiloxStream stream = StreamOf(options, "labels");
  for (size_t d = 0; d < devices; ++d) {
    while (of_device[d].size() < each) {
      const size_t label = present[next < labels ? next++ : stream.NextBelow(static_cast<uint32_t>(labels))];
      const auto& mine = of_device[d];
      if (std::find(mine.begin(), mine.end(), label) == mine.end()) of_device[d].push_back(label);
    }
  }
  return of_device;
}

Parts LabelSkew(const PartitionInput& input, const PartitionOptions& options) {
  Parts parts(static_cast<size_t>(options.num_devices));
  const auto of_device = LabelsOfDevices(input, options);
  const Parts by_label = ByLabel(input, options);
  for (size_t label = 0; label < by_label.size(); ++label) {
    std::vector<size_t> owners;
    for (size_t d = 0; d < of_device.size(); ++d) {
      if (std::find(of_device[d].begin(), of_device[d].end(), label) != of_device[d].end()) owners.push_back(d);
    }
    const auto sizes =
        Apportion(static_cast<int64_t>(by_label[label].size()), Equal(static_cast<int64_t>(owners.size())));
    size_t next = 0;
    for (size_t i = 0; i < owners.size(); ++i) {
      for (int64_t n = 0; n < sizes[i]; ++n) parts[owners[i]].push_back(by_label[label][next++]);
    }
  }
  return parts;
}

Parts Natural(const PartitionInput& input, const PartitionOptions& options) {
  Parts groups(static_cast<size_t>(input.num_groups));
  for (int64_t example = 0; example < input.num_examples; ++example) {
    groups[static_cast<size_t>(input.groups[static_cast<size_t>(example)])].push_back(example);
  }
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  Parts parts(static_cast<size_t>(options.num_devices));
  using Load = std::pair<size_t, size_t>;  // examples, device: the least first, of equal ones the first
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (size_t d = 0; d < parts.size(); ++d) loads.emplace(0, d);
  for (const auto& group : groups) {
    const size_t d = loads.top().second;
    loads.pop();
    parts[d].insert(parts[d].end(), group.begin(), group.end());
    loads.emplace(parts[d].size(), d);
  }
  return parts;
}

// Devices below the least take from the largest at the time, one example after the other.
void FillUp(const PartitionOptions& options, Parts* parts) {
  PhiloxStream stream = StreamOf(options, "fill");
  using Load = std::pair<size_t, int64_t>;  // the largest first, of equal ones the first
  std::priority_queue<Load> loads;
  for (size_t d = 0; d < parts->size(); ++d) loads.emplace((*parts)[d].size(), -static_cast<int64_t>(d));
  const auto least = static_cast<size_t>(options.min_examples);
  for (auto& part : *parts) {
    while (part.size() < least) {
      const auto donor = static_cast<size_t>(-loads.top().second);
      loads.pop();
      std::vector<int64_t>& from = (*parts)[donor];
      HEDDLE_ASSERT(from.size() > least, "there is enough for all");
      const size_t taken = stream.NextBelow(static_cast<uint32_t>(from.size()));
      part.push_back(from[taken]);
      from[taken] = from.back();
      from.pop_back();
      loads.emplace(from.size(), -static_cast<int64_t>(donor));
    }
  }
}

struct Method {
  const char* name;
  Parts (*split)(const PartitionInput&, const PartitionOptions&);
  bool labels, groups, clusters;
};

constexpr Method kMethods[] = {{"uniform", Uniform, false, false, false},
                               {"dirichlet", Dirichlet, true, false, false},
                               {"dirichlet_classes", DirichletClasses, true, false, false},
                               {"quantity", Quantity, false, false, false},
                               {"label", LabelSkew, true, false, false},
                               {"natural", Natural, false, true, false},
                               {"kmeans", Dirichlet, false, false, true}};

const Method* Find(const std::string& name) {
  for (const Method& method : kMethods) {
    if (name == method.name) return &method;
  }
  return nullptr;
}

Status CheckLabels(const PartitionInput& input, const PartitionOptions& options) {
  if (input.labels.empty())
    return InvalidArgument("the partition '" + options.method + "' needs labels, and the data have none");
  if (options.method != "label") return OkStatus();
  const int64_t labels = input.num_labels, each = options.labels_per_device;
  if (each < 1 || each > labels) {
    return InvalidArgument("labels_per_device is " + std::to_string(each) + ", but there are " +
                           std::to_string(labels) + " labels");
  }
  const auto present = static_cast<int64_t>(LabelsPresent(input).size());
  if (each * options.num_devices < present) {
    return InvalidArgument(std::to_string(options.num_devices) + " devices with " + std::to_string(each) +
                           " labels each cannot hold " + std::to_string(present) +
                           " labels: take more devices or labels_per_device");
  }
  return OkStatus();
}

Status Check(const PartitionInput& input, const PartitionOptions& options, const Method& method) {
  if (options.num_devices < 1 || options.min_examples < 0 || !(options.alpha > 0)) {
    return InvalidArgument(
        "a partition needs at least one device, a min_examples that is not negative, an alpha above 0");
  }
  if (input.num_examples >= int64_t{1} << 32) return InvalidArgument("a partition is of less than 2^32 examples");
  const int64_t least = std::max<int64_t>(options.min_examples, 1);
  if (input.num_examples / options.num_devices < least) {
    return InvalidArgument(std::to_string(input.num_examples) + " examples are too few for " +
                           std::to_string(options.num_devices) + " devices with at least " + std::to_string(least) +
                           " each: take fewer devices or a smaller min_examples");
  }
  if (method.labels || method.clusters) HEDDLE_RETURN_IF_ERROR(CheckLabels(input, options));
  if (!method.groups) return OkStatus();
  if (input.groups.empty())
    return InvalidArgument("the partition '" + options.method + "' needs groups, and the data have none");
  if (input.num_groups < options.num_devices) {
    return InvalidArgument("there are " + std::to_string(input.num_groups) + " groups for " +
                           std::to_string(options.num_devices) + " devices: take fewer devices");
  }
  return OkStatus();
}

}  // namespace

std::vector<std::string> PartitionNames() {
  std::vector<std::string> names;
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

bool PartitionNeedsLabels(const std::string& method) { return Find(method) != nullptr && Find(method)->labels; }
bool PartitionNeedsGroups(const std::string& method) { return Find(method) != nullptr && Find(method)->groups; }
bool PartitionNeedsClusters(const std::string& method) { return Find(method) != nullptr && Find(method)->clusters; }

Result<Parts> Partition(const PartitionInput& input, const PartitionOptions& options) {
  const Method* method = Find(options.method);
  if (method == nullptr) {
    const auto nearest = NearestName(options.method, PartitionNames());
    return InvalidArgument("there is no partition '" + options.method + "'" +
                           (nearest ? "; did you mean '" + *nearest + "'?" : ""));
  }
  HEDDLE_RETURN_IF_ERROR(Check(input, options, *method));
  Parts parts = method->split(input, options);
  if (!method->groups) {
    PartitionOptions at_least_one = options;
    at_least_one.min_examples = std::max<int64_t>(options.min_examples, 1);
    FillUp(at_least_one, &parts);
  }
  for (size_t d = 0; d < parts.size(); ++d) {
    std::sort(parts[d].begin(), parts[d].end());
    if (static_cast<int64_t>(parts[d].size()) >= options.min_examples) continue;
    return InvalidArgument("the groups of a device have " + std::to_string(parts[d].size()) +
                           " examples together, which is below min_examples (" + std::to_string(options.min_examples) +
                           "): take fewer devices");
  }
  return parts;
}

}  // namespace heddle::simulator
