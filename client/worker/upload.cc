#include "client/worker/upload.h"

#include <limits>

#include "aggregation/compression/compressor.h"
#include "aggregation/device_rules.h"
#include "aggregation/privacy/update_privacy.h"
#include "common/logging.h"
#include "common/safetensors.h"

namespace heddle::client {
namespace {

// What earlier updates left, by the names of their tensors.
Result<StateDict> ReadResidual(const std::filesystem::path& path) {
  StateDict residual;
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return residual;
  const Result<SafetensorsFile> file = ReadSafetensors(path);
  if (file.status().code() == Code::kInvalidArgument || file.status().code() == Code::kDataLoss) {
    // A damaged file must not keep the device from ever sending an update again.
    Log(Severity::kWarning,
        "what earlier updates left out cannot be read and is forgotten: " + file.status().message());
    return residual;
  }
  HEDDLE_RETURN_IF_ERROR(file.status());
  for (const auto& [name, tensor] : file->tensors) {
    if (name.starts_with(kResidualPrefix) && tensor.dtype() == DType::kF32) {
      residual.emplace(name.substr(kResidualPrefix.size()), tensor);
    }
  }
  return residual;
}

// Of `earlier`, what belongs to the tensors of `update`; zero where there is nothing.
StateDict ResidualOf(const StateDict& update, const StateDict& earlier) {
  StateDict residual;
  for (const auto& [name, tensor] : update) {
    const auto found = earlier.find(name);
    if (found != earlier.end()) {
      // A device that has pruned its rank sends the first rows of A and columns of B from then on.
      const int rank = aggregation::IsLoraA(name) ? 0 : aggregation::IsLoraB(name) ? 1 : -1;
      const bool factor = rank >= 0 && tensor.shape().size() == 2 && found->second.shape().size() == 2;
      Tensor left = factor ? aggregation::CutToRank(name, found->second, tensor.shape()[static_cast<size_t>(rank)])
                           : found->second;
      if (left.spec() == tensor.spec()) {
        residual.emplace_hint(residual.end(), name, std::move(left));
        continue;
      }
    }
    std::span<std::byte> zeros;
    residual.emplace_hint(residual.end(), name, Tensor::Allocate(tensor.spec(), &zeros));
  }
  return residual;
}

// What noise hides must not be told beside the update.
void WithholdLosses(TaskStats* stats) {
  stats->train_loss = stats->first_loss = stats->last_loss = std::numeric_limits<double>::quiet_NaN();
  stats->loss_stalled = false;
  stats->skipped_directions = 0;
}

// What a plan asks to be done to an update, in this order.
struct Asked {
  privacy::UpdatePrivacy privacy;
  compression::Pipeline stages;  // empty: it stays as large as it is
};

// Errors: those of CheckUpload.
Result<Asked> ReadWords(const TrainRules& rules, std::string_view noise_secret) {
  const Result<privacy::PlannedUpload> planned = privacy::ParseUpload(rules.upload);
  if (!planned.ok()) return planned.status().Annotate("this device cannot do to its update what the plan asks");
  if (planned->privacy.noise_multiplier > 0 && noise_secret.empty()) {
    return FailedPrecondition(
        "the plan asks for noise on the update, and this worker was given no secret to draw it from; its daemon must "
        "be of the same version");
  }
  Asked asked{planned->privacy, {}};
  if (planned->rest.empty()) return asked;
  Result<compression::Pipeline> known = compression::Pipeline::Parse(planned->rest);
  if (!known.ok()) return known.status().Annotate("this device cannot make its update smaller as the plan asks");
  asked.stages = *std::move(known);
  return asked;
}

}  // namespace

Status CheckUpload(const TrainRules& rules, std::string_view noise_secret) {
  return ReadWords(rules, noise_secret).status();
}

Result<std::string> MakeUpload(const TaskInput& input, TaskOutput* output, std::string_view noise_secret) {
  const TrainRules& rules = input.train.rules;
  if (rules.upload.empty()) return SerializeSafetensors(output->update);
  HEDDLE_ASSIGN_OR_RETURN(Asked asked, ReadWords(rules, noise_secret));
  HEDDLE_ASSIGN_OR_RETURN(output->update, privacy::MakePrivate(output->update, asked.privacy, noise_secret));
  if (asked.privacy.noise_multiplier > 0) WithholdLosses(&output->stats);
  if (asked.stages.empty()) return SerializeSafetensors(output->update);
  const compression::Compressor compressor(std::move(asked.stages), input.seed);
  if (!compressor.pipeline().error_feedback()) {
    HEDDLE_ASSIGN_OR_RETURN(compression::Encoded encoded, compressor.Encode(output->update, nullptr));
    return std::move(encoded.bytes);
  }
  HEDDLE_ASSIGN_OR_RETURN(StateDict earlier, ReadResidual(input.personal_path));
  StateDict residual = ResidualOf(output->update, earlier);
  HEDDLE_ASSIGN_OR_RETURN(compression::Encoded encoded, compressor.Encode(output->update, &residual));
  residual.merge(earlier);  // what is left of tensors that were not in this update stays
  for (auto& [name, tensor] : residual) {
    output->personal.insert_or_assign(std::string(kResidualPrefix) + name, std::move(tensor));
  }
  return std::move(encoded.bytes);
}

}  // namespace heddle::client
