#include "client/split/setup.h"

#include <sys/random.h>

#include <array>
#include <cerrno>

#include "common/file.h"
#include "model/config/cut.h"
#include "model/config/registry.h"

namespace heddle::client {

namespace {

// 32 bytes as hex digits, made when they are first asked for.
Result<std::string> SecretIn(const std::filesystem::path& file) {
  if (std::filesystem::exists(file)) return ReadFile(file);
  std::array<unsigned char, 32> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus(errno, "cannot get random bytes for " + file.string());
  }
  std::string hex;
  for (const unsigned char byte : bytes) {
    hex += "0123456789abcdef"[byte >> 4U];
    hex += "0123456789abcdef"[byte & 15U];
  }
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(file, hex, 0600));
  return hex;
}

}  // namespace

Result<SplitDeviceOptions> PrepareSplitDevice(const protocol::SplitPlan& plan, const std::filesystem::path& data,
                                              TaskResources& resources, const std::filesystem::path& state_file) {
  HEDDLE_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::ReadModelConfig(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const model::SplitTopology topology, model::SplitTopologyFromName(plan.topology));
  model::WeightOptions weights;
  HEDDLE_ASSIGN_OR_RETURN(weights.part, model::DevicePart(spec, {plan.cut, topology}));
  HEDDLE_ASSIGN_OR_RETURN(const std::string digest, protocol::BaseModelDigest(plan.base_model));
  HEDDLE_ASSIGN_OR_RETURN(const TaskResources::Base base, resources.GetBase(plan.base_model, weights));
  SplitDeviceOptions options;
  options.plan = plan;
  options.plan_digest = plan.Digest(digest);
  options.part = base.weights;
  options.state_file = state_file;
  if (!state_file.empty() && (plan.privacy.noise_multiplier > 0 || plan.privacy.label_epsilon > 0)) {
    HEDDLE_ASSIGN_OR_RETURN(options.secret, SecretIn(state_file.parent_path() / "split.secret"));
  }
  TaskInput input;
  input.train.batch_size = plan.batch_size;
  input.train.sequence_length = plan.sequence_length;
  input.base_model_dir = plan.base_model;
  input.data_path = data;
  options.batches = [input, base, &resources](uint64_t seed) {
    TaskInput seeded = input;
    seeded.seed = seed;
    return TrainingBatches(seeded, base, resources);
  };
  return options;
}

}  // namespace heddle::client
