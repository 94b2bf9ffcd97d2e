#include "coordinator/recipe/simulation_bindings.h"

#include <algorithm>

#include "coordinator/engine/types.h"

namespace heddle::coordinator {
namespace {

constexpr double kMaxDevices = 100'000;

// Those that came after the first recipes are silent at their defaults, so that the names of older runs stay.
void BindSplit(ConfigSchema* schema, SimulatedDevices* sim) {
  schema->Bind("simulation.partition", &sim->partition,
               {.help = "how examples are dealt to devices",
                .choices = {"uniform", "dirichlet", "dirichlet_classes", "quantity", "label", "natural", "kmeans"},
                .silent_default = true});
  schema->Bind("simulation.alpha", &sim->alpha,
               {.help = "of the Dirichlet distribution: small ones make devices differ",
                .min = 1e-6,
                .max = 1e6,
                .silent_default = true});
  schema->Bind("simulation.labels_per_device", &sim->labels_per_device,
               {.help = "with partition label", .min = 1, .max = 1e4, .silent_default = true});
  schema->Bind("simulation.clusters", &sim->clusters,
               {.help = "with partition kmeans", .min = 1, .max = 1000, .silent_default = true});
  schema->Bind("simulation.min_examples", &sim->min_examples,
               {.help = "every device has so many at least; 0: train.batch_size", .max = 1e9, .silent_default = true});
  schema->Bind("simulation.max_examples", &sim->max_examples,
               {.help = "so many of the examples are dealt; 0: all", .max = 4e9, .silent_default = true});
  schema->Bind(
      "simulation.labelled_examples", &sim->labelled_examples,
      {.help = "so many of the devices' examples keep their labels; 0: all", .max = 4e9, .silent_default = true});
  schema->Bind("simulation.labelled_devices", &sim->labelled_devices,
               {.help = "so many devices have labelled examples; 0: all", .max = kMaxDevices, .silent_default = true});
  schema->Bind("simulation.columns", &sim->columns,
               {.help = "of CSV and TSV files without a header: the names of their columns", .silent_default = true});
  schema->Bind("simulation.text_fields", &sim->text_fields,
               {.help = "the fields that make up the text; none: text, sentence, sentence1, or content",
                .silent_default = true});
  schema->Bind("simulation.label_field", &sim->label_field,
               {.help = "the field of the label", .min = 1, .silent_default = true});
  schema->Bind("simulation.label_names", &sim->label_names,
               {.help = "labels in the order of their numbers; none: the model's, else the data's in their order",
                .silent_default = true});
  schema->Bind("simulation.group_field", &sim->group_field,
               {.help = "with partition natural: the field that says whose an example is", .silent_default = true});
  schema->Bind("simulation.test_fraction", &sim->test_fraction,
               {.help = "share of the examples that no device gets", .min = 0, .max = 0.99, .silent_default = true});
  schema->Bind("simulation.device_test_fraction", &sim->device_test_fraction,
               {.help = "share of each device's examples that it does not train on",
                .min = 0,
                .max = 0.99,
                .silent_default = true});
}

}  // namespace

void SimulationBindings::Bind(ConfigSchema* schema, SimulatedDevices* sim) {
  schema->Bind("simulation.devices", &sim->names, {.help = "names of the simulated devices"});
  schema->Bind("simulation.num_devices", &num_devices_,
               {.help = "with source split, instead of names: device-001 and so on",
                .max = kMaxDevices,
                .silent_default = true});
  schema->Bind(
      "simulation.source", &sim->source,
      {.help = "where their data comes from: files (one each), kjv (parts of the King James Bible by name), or "
               "split (examples dealt by partition)",
       .choices = {"files", "kjv", "split"}});
  schema->Bind("simulation.data", &data_, {.help = "their data, relative to the recipe", .is_path = true});
  BindSplit(schema, sim);
  schema->Bind("simulation.test_data", &test_data_,
               {.help = "what the models of rounds are tested on, relative to the recipe",
                .is_path = true,
                .silent_default = true});
  schema->Bind("simulation.max_test_examples", &sim->max_test_examples,
               {.help = "with source split: so many of the test examples; 0: all", .max = 4e9, .silent_default = true});
  schema->Bind(
      "simulation.eval_every", &sim->eval_every,
      {.help = "rounds from one test to the next; 0: after the last round only", .max = 1e6, .silent_default = true});
  BindMachines(schema, sim);
}

void SimulationBindings::BindMachines(ConfigSchema* schema, SimulatedDevices* sim) {
  schema->Bind("simulation.seconds_per_step", &sim->seconds_per_step,
               {.help = "virtual seconds a training step", .min = 0, .max = 1e6});
  schema->Bind(
      "simulation.download_bytes_per_s", &sim->download_bytes_per_s,
      {.help = "of a device; 0: downloads take no virtual time", .min = 0, .max = 1e15, .silent_default = true});
  schema->Bind("simulation.upload_bytes_per_s", &sim->upload_bytes_per_s,
               {.help = "of a device; 0: uploads take no virtual time", .min = 0, .max = 1e15, .silent_default = true});
  schema->Bind("simulation.watts", &sim->watts,
               {.help = "of a device while it computes", .min = 0, .max = 1e6, .silent_default = true});
  schema->Bind("simulation.radio_watts", &sim->radio_watts,
               {.help = "of a device while it sends or receives", .min = 0, .max = 1e6, .silent_default = true});
  schema->Bind("simulation.memory_limit_mb", &sim->memory_limit_mb,
               {.help = "of a device; tasks that need more fail there; 0: no limit",
                .min = 0,
                .max = 1e9,
                .silent_default = true});
  schema->BindTable("simulation.profiles", &profiles_, "kinds of devices by name, with what differs from [simulation]");
  schema->Bind("simulation.speed_spread", &sim->speed_spread,
               {.help = "devices are slower by a factor drawn from 1 to 1 + this", .min = 0, .max = 1000});
  schema->Bind("simulation.attackers", &sim->attackers,
               {.help = "share of the devices that send something else than what they learnt",
                .min = 0,
                .max = 1,
                .silent_default = true});
  schema->Bind("simulation.attack", &sim->attack,
               {.help = "what attackers send: the opposite of their update, or noise",
                .choices = {"sign_flip", "noise"},
                .silent_default = true});
  schema->Bind("simulation.attack_scale", &sim->attack_scale,
               {.help = "so many times as long as their update", .min = 0, .max = 1e6, .silent_default = true});
  schema->Bind("simulation.failure_probability", &sim->failure_probability,
               {.help = "probability that a task is interrupted", .min = 0, .max = 1});
  schema->Bind(
      "simulation.device", &sim->device,
      {.help = "what computes: the processor, or the first GPU", .choices = {"cpu", "cuda"}, .silent_default = true});
  schema->Bind("simulation.threads", &threads_, {.help = "worker threads; 0: the machine's cores", .max = 1024});
}

Status SimulationBindings::Store(SimulatedDevices* sim, uint64_t batch_size) const {
  sim->data.assign(data_.begin(), data_.end());
  sim->test_data.assign(test_data_.begin(), test_data_.end());
  sim->threads = static_cast<unsigned>(threads_);
  if (sim->min_examples == 0) sim->min_examples = batch_size;
  if (sim->names.empty() && num_devices_ > 0) sim->names = NumberedDevices(num_devices_);
  const DeviceProfile base = {.name = "device",
                              .share = 1,
                              .seconds_per_step = sim->seconds_per_step,
                              .download_bytes_per_s = sim->download_bytes_per_s,
                              .upload_bytes_per_s = sim->upload_bytes_per_s,
                              .watts = sim->watts,
                              .radio_watts = sim->radio_watts,
                              .memory_limit_mb = sim->memory_limit_mb};
  HEDDLE_ASSIGN_OR_RETURN(sim->profiles, ParseProfiles(profiles_, base));
  return OkStatus();
}

std::vector<std::string> SimulationBindings::Mistakes(const SimulatedDevices& sim) const {
  std::vector<std::string> mistakes;
  const auto check = [&](bool fine, std::string sentence) {
    if (!fine) mistakes.push_back(std::move(sentence));
  };
  const bool split = sim.source == "split";
  check(num_devices_ == 0 || split,
        "simulation.num_devices: it goes with source = \"split\"; name the devices instead");
  check(num_devices_ == 0 || sim.names.size() == num_devices_,
        "simulation.num_devices: it is " + std::to_string(num_devices_) + ", but simulation.devices has " +
            std::to_string(sim.names.size()) + " names; give one of the two");
  check(!split || !sim.data.empty(), "simulation.data: the files to be split are missing");
  check(split || sim.data.empty() || sim.names.size() == sim.data.size(),
        "simulation.data: it needs one file for each of the " + std::to_string(sim.names.size()) +
            " names in simulation.devices");
  check(split || sim.test_fraction + sim.device_test_fraction == 0,
        "simulation.test_fraction, device_test_fraction: they go with source = \"split\"");
  check(split || sim.labelled_examples + sim.labelled_devices == 0,
        "simulation.labelled_examples, labelled_devices: they go with source = \"split\"");
  check(sim.test_data.empty() || sim.test_fraction == 0,
        "simulation.test_fraction: give it or simulation.test_data, not both");
  check(split || sim.test_data.size() < 2, "simulation.test_data: several files go with source = \"split\"");
  check(sim.partition != "natural" || !sim.group_field.empty(),
        "simulation.group_field: the partition 'natural' needs the field that says whose an example is");
  for (const std::string& device : sim.names) {
    check(IsValidDeviceName(device),
          "simulation.devices: '" + device + "' is not a device's name ([a-z0-9][a-z0-9._-]{0,62})");
  }
  auto names = sim.names;
  std::sort(names.begin(), names.end());
  check(std::adjacent_find(names.begin(), names.end()) == names.end(), "simulation.devices: a name stands twice");
  return mistakes;
}

std::vector<std::string> NumberedDevices(uint64_t count) {
  const size_t digits = std::max<size_t>(3, std::to_string(count).size());
  std::vector<std::string> names;
  for (uint64_t i = 1; i <= count; ++i) {
    std::string number = std::to_string(i);
    number.insert(0, digits - number.size(), '0');
    names.push_back("device-" + number);
  }
  return names;
}

}  // namespace heddle::coordinator
