#include "client/worker/ledger_replay.h"

#include <algorithm>
#include <memory>

#include "common/file.h"
#include "common/safetensors.h"

namespace heddle::client {

namespace fs = std::filesystem;

Result<StartOfRun> ReadStart(const fs::path& adapter_dir, zo::LedgerHead* head) {
  StartOfRun start;
  HEDDLE_ASSIGN_OR_RETURN(start.adapter, peft::ReadAdapter(adapter_dir));
  HEDDLE_ASSIGN_OR_RETURN(head->start, Sha256File(adapter_dir / "adapter_model.safetensors"));
  start.ledger.head = *head;
  const fs::path file = adapter_dir / zo::kLedgerFile;
  auto bytes = ReadFile(file, size_t{1} << 30);
  if (bytes.status().code() == Code::kNotFound) return start;
  if (!bytes.ok()) return bytes.status();
  auto ledger = zo::DecodeLedger(std::as_bytes(std::span(*bytes)));
  if (!ledger.ok()) return ledger.status().Annotate(file.string());
  if (ledger->head.start != head->start) {
    return InvalidArgument(file.string() + " is the ledger of a run that began with another adapter");
  }
  if (!(ledger->head == *head))
    return InvalidArgument(file.string() + " was begun with other settings than the plan's");
  start.ledger = *std::move(ledger);
  start.given = true;
  return start;
}

// The values of `kept`, where it is of the same run and tensors.
bool LedgerCache::Restore(const Kept* kept, const zo::Ledger& ledger, std::span<zo::Parameter> parameters) {
  if (kept == nullptr || !(kept->ledger.head == ledger.head) || kept->names.size() != parameters.size()) return false;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const zo::Parameter& parameter = parameters[i];
    if (kept->names[i] != parameter.name || kept->values[i].size() != parameter.values.size()) return false;
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::copy(kept->values[i].begin(), kept->values[i].end(), parameters[i].values.begin());
  }
  return true;
}

Result<Sha256Digest> LedgerCache::Replay(const zo::Ledger& ledger, std::span<zo::Parameter> parameters,
                                         unsigned threads) {
  std::shared_ptr<const Kept> kept;
  {
    std::lock_guard lock(mutex_);
    kept = kept_;
  }
  uint64_t bytes = 0;
  for (const zo::Parameter& parameter : parameters) bytes += parameter.values.size_bytes();
  const auto keep = [&]() -> std::shared_ptr<const Kept> {
    if (bytes > kMaxKeptBytes) return nullptr;
    auto next = std::make_shared<Kept>();
    next->ledger = ledger;
    for (const zo::Parameter& parameter : parameters) {
      next->names.push_back(parameter.name);
      next->values.emplace_back(parameter.values.begin(), parameter.values.end());
    }
    return next;
  };
  const bool named = !ledger.weights.IsZero();
  const zo::Ledger nothing = zo::EmptyLedger(ledger.head);
  std::shared_ptr<const Kept> start;  // while the values are those of an earlier ledger
  if (kept && bytes <= kMaxKeptBytes) {
    start = keep();
    if (!Restore(kept.get(), ledger, parameters)) start.reset();
  }
  const bool reused = start != nullptr;
  HEDDLE_RETURN_IF_ERROR(zo::ApplyMoves(
      ledger.head.distribution, zo::MovesBetween(reused ? kept->ledger : nothing, ledger), parameters, threads));
  Sha256Digest digest = zo::DigestOfWeights(parameters);
  if (reused && named && digest != ledger.weights) {
    // What was kept is not what it should be: once more, from the start.
    Restore(start.get(), ledger, parameters);
    HEDDLE_RETURN_IF_ERROR(
        zo::ApplyMoves(ledger.head.distribution, zo::MovesBetween(nothing, ledger), parameters, threads));
    digest = zo::DigestOfWeights(parameters);
  }
  if (named && digest != ledger.weights) {
    return InvalidArgument("the replay of the ledger of round " + std::to_string(ledger.round) +
                           " has not the weights that it names");
  }
  std::lock_guard lock(mutex_);
  if (reused) ++reused_;
  kept_ = keep();
  return digest;
}

uint64_t LedgerCache::reused() const {
  std::lock_guard lock(mutex_);
  return reused_;
}

}  // namespace heddle::client
