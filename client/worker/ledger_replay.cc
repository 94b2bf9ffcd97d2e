#include "client/worker/ledger_replay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "common/logging.h"
#include "common/safetensors.h"
#include "common/safetensors_head.h"

namespace heddle::client {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxLedgerBytes = size_t{1} << 30;

// Errors: kNotFound where there are none.
Result<FetchedWeights> ReadFetched(const fs::path& adapter_dir, const zo::LedgerHead& head) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(adapter_dir / zo::kLedgerOfWeightsFile, kMaxLedgerBytes));
  FetchedWeights fetched;
  HEDDLE_ASSIGN_OR_RETURN(fetched.ledger, zo::DecodeLedger(std::as_bytes(std::span(bytes))));
  if (!(fetched.ledger.head == head)) return InvalidArgument("they are another run's");
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file,
                          ReadSafetensors(adapter_dir / zo::kLedgerWeightsFile, Misaligned::kKeep));
  fetched.tensors = std::move(file.tensors);
  fetched.files = std::move(file.files);
  return fetched;
}

}  // namespace

Result<StartOfRun> ReadStart(const fs::path& adapter_dir, zo::LedgerHead* head) {
  StartOfRun start;
  HEDDLE_ASSIGN_OR_RETURN(start.adapter, peft::ReadAdapter(adapter_dir));
  HEDDLE_ASSIGN_OR_RETURN(head->start, Sha256File(adapter_dir / "adapter_model.safetensors"));
  start.ledger.head = *head;
  const fs::path file = adapter_dir / zo::kLedgerFile;
  auto bytes = ReadFile(file, kMaxLedgerBytes);
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
  auto fetched = ReadFetched(adapter_dir, *head);
  if (fetched.ok()) {
    start.fetched = *std::move(fetched);
  } else if (fetched.status().code() != Code::kNotFound) {
    Log(Severity::kWarning, "fetched weights are of no use", {{"error", fetched.status().message()}});
  }
  return start;
}

bool LedgerCache::Fits(const zo::Ledger& ledger, std::span<const zo::Parameter> parameters) const {
  if (!kept_ || !(kept_->ledger.head == ledger.head) || kept_->names.size() != parameters.size()) return false;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const zo::Parameter& parameter = parameters[i];
    if (kept_->names[i] != parameter.name || kept_->values[i].size() != parameter.values.size()) return false;
  }
  return true;
}

bool LedgerCache::Begin(const zo::Ledger& ledger, std::span<zo::Parameter> parameters,
                        std::vector<zo::SeedMove>* moves) const {
  const std::lock_guard lock(mutex_);
  const bool fits = Fits(ledger, parameters);
  for (size_t i = 0; fits && i < parameters.size(); ++i) {
    std::copy(kept_->values[i].begin(), kept_->values[i].end(), parameters[i].values.begin());
  }
  *moves = zo::MovesBetween(fits ? kept_->ledger : zo::EmptyLedger(ledger.head), ledger);
  return fits;
}

// Over what was kept, so that there are never two copies.
void LedgerCache::Keep(const zo::Ledger& ledger, std::span<const zo::Parameter> parameters, From from) {
  uint64_t bytes = 0;
  for (const zo::Parameter& parameter : parameters) bytes += parameter.values.size_bytes();
  const std::lock_guard lock(mutex_);
  if (from == From::kKept) ++reused_;
  if (from == From::kFetched) ++fetched_;
  const bool fits = Fits(ledger, parameters);
  if (!fits) kept_.reset();
  if (BytesKeptOf(bytes) == 0) return;
  if (fits && kept_->ledger == ledger) return;  // another task of the round was here
  zo::Ledger named = ledger;
  if (!fits) {
    Kept next;
    for (const zo::Parameter& parameter : parameters) {
      next.names.push_back(parameter.name);
      next.values.emplace_back(parameter.values.begin(), parameter.values.end());
    }
    kept_ = std::move(next);
  }
  for (size_t i = 0; fits && i < parameters.size(); ++i) {
    std::copy(parameters[i].values.begin(), parameters[i].values.end(), kept_->values[i].begin());
  }
  kept_->ledger = std::move(named);
}

namespace {

constexpr size_t kFloatsAtOnce = size_t{1} << 18;

// False where `start` has not these tensors.
bool PutStart(const StateDict& start, std::span<zo::Parameter> parameters) {
  for (const zo::Parameter& parameter : parameters) {
    const auto found = start.find(parameter.name);
    if (found == start.end() || found->second.dtype() != DType::kF32) return false;
    const auto values = found->second.values<float>();
    if (values.size() != parameter.values.size()) return false;
    std::copy(values.begin(), values.end(), parameter.values.begin());
    zo::SnapToGrid(parameter.grid, parameter.values);
  }
  return true;
}

// Errors: they are not the weights that their ledger names, of all parameters and on their grids.
Status PutFetched(const FetchedWeights& fetched, std::span<zo::Parameter> parameters) {
  for (const zo::Parameter& parameter : parameters) {
    const auto found = fetched.tensors.find(parameter.name);
    if (found == fetched.tensors.end() || found->second.dtype() != DType::kF32)
      return InvalidArgument("the fetched weights have no float32 tensor '" + parameter.name + "'");
    const auto in_range = [&](float value) { return std::abs(value) <= parameter.grid.range(); };
    const std::span<const std::byte> bytes = found->second.bytes();
    if (bytes.size() != parameter.values.size_bytes())
      return InvalidArgument("the fetched tensor '" + parameter.name + "' is none of this run's");
    for (size_t first = 0; first < parameter.values.size(); first += kFloatsAtOnce) {
      const auto values = parameter.values.subspan(first, std::min(kFloatsAtOnce, parameter.values.size() - first));
      const auto from = bytes.subspan(first * sizeof(float), values.size_bytes());
      std::memcpy(values.data(), from.data(), from.size());
      for (const auto& file : fetched.files) file->DropPages(from);
      if (!std::all_of(values.begin(), values.end(), in_range))
        return InvalidArgument("the fetched tensor '" + parameter.name + "' is none of this run's");
      zo::SnapToGrid(parameter.grid, values);
    }
  }
  if (zo::DigestOfWeights(parameters) != fetched.ledger.weights)
    return InvalidArgument("the fetched weights are not those that their ledger names");
  // The digest of a replay shows that this processor makes the directions of the others. Here there may be none.
  return zo::CheckDirections();
}

// Without a copy of them. The content gets no fsync: whoever reads it holds it against the ledger's digest.
Status WriteReplayed(const fs::path& path, std::span<const zo::Parameter> parameters) {
  StateDictSpec specs;
  std::map<std::string_view, std::span<const float>> values;  // in the order of the specs
  for (const zo::Parameter& parameter : parameters) {
    specs.emplace(parameter.name, TensorSpec{DType::kF32, {static_cast<int64_t>(parameter.values.size())}});
    values.emplace(parameter.name, parameter.values);
  }
  fs::path part = path;
  part += ".part";
  ::unlink(part.c_str());  // never written to: it might be a name of something that the daemon keeps
  UniqueFd fd(::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot write " + part.string());
  const std::string what = "cannot write " + part.string();
  Status status = WriteAll(fd.get(), SafetensorsHead(specs), what);
  for (auto one = values.begin(); status.ok() && one != values.end(); ++one) {
    const auto bytes = std::as_bytes(one->second);
    status = WriteAll(fd.get(), {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, what);
  }
  if (status.ok()) status = RenameDurably(part, path);
  if (!status.ok()) ::unlink(part.c_str());
  return status;
}

// How many directions a process replays that begins with these weights, if there are some, or with the start.
uint64_t DirectionsFrom(const FetchedWeights* weights, const zo::Ledger& ledger) {
  const uint64_t all = ledger.entries.size();
  if (weights == nullptr || !(weights->ledger.head == ledger.head)) return all;
  return std::min<uint64_t>(all, zo::MovesBetween(weights->ledger, ledger).size());
}

}  // namespace

Result<Sha256Digest> LedgerCache::Replay(const zo::Ledger& ledger, const StateDict& start,
                                         std::span<zo::Parameter> parameters, unsigned threads,
                                         const FetchedWeights* fetched, const fs::path& leave_in) {
  uint64_t moved = 0;
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest,
                          ReplayNearest(ledger, start, parameters, threads, &fetched, &moved));
  if (leave_in.empty() || ledger.entries.empty()) return digest;
  Log(Severity::kInfo, "replayed a ledger", {{"directions", moved}, {"of", ledger.entries.size()}});
  // Weights without a name could not be told from others.
  if (ledger.weights.IsZero() || DirectionsFrom(fetched, ledger) < kDirectionsWorthAFile) return digest;
  const Status left = WriteReplayed(leave_in / kReplayedWeightsFile, parameters);
  if (!left.ok()) Log(Severity::kWarning, "replayed weights could not be left", {{"error", left.message()}});
  return digest;
}

Result<Sha256Digest> LedgerCache::ReplayNearest(const zo::Ledger& ledger, const StateDict& start,
                                                std::span<zo::Parameter> parameters, unsigned threads,
                                                const FetchedWeights** nearest, uint64_t* moved) {
  const FetchedWeights*& fetched = *nearest;
  Sha256Digest digest;
  const auto replay = [&](std::span<const zo::SeedMove> moves) -> Status {
    *moved += moves.size();
    HEDDLE_RETURN_IF_ERROR(zo::ApplyMoves(ledger.head.distribution, moves, parameters, threads));
    digest = zo::DigestOfWeights(parameters);
    if (ledger.weights.IsZero() || digest == ledger.weights) return OkStatus();
    return InvalidArgument("the replay of the ledger of round " + std::to_string(ledger.round) +
                           " has not the weights that it names");
  };
  std::vector<zo::SeedMove> moves;
  From from = Begin(ledger, parameters, &moves) ? From::kKept : From::kStart;
  Status replayed;
  if (fetched != nullptr && fetched->ledger.head == ledger.head) {
    auto fewer = zo::MovesBetween(fetched->ledger, ledger);
    if (fewer.size() < moves.size()) {
      from = From::kFetched;
      moves = std::move(fewer);
      replayed = PutFetched(*fetched, parameters);
    }
  }
  if (replayed.ok()) replayed = replay(moves);
  if (!replayed.ok() && from != From::kStart) {
    // What it began with may not be what it should be: once more, without it.
    if (from == From::kFetched) {
      Log(Severity::kWarning, "fetched weights are of no use", {{"error", replayed.message()}});
      fetched = nullptr;
    } else {
      const std::lock_guard lock(mutex_);
      kept_.reset();
    }
    from = From::kStart;
    if (PutStart(start, parameters)) replayed = replay(zo::MovesBetween(zo::EmptyLedger(ledger.head), ledger));
  }
  {
    const std::lock_guard lock(mutex_);
    directions_ += *moved;
  }
  HEDDLE_RETURN_IF_ERROR(replayed);
  Keep(ledger, parameters, from);
  return digest;
}

uint64_t LedgerCache::directions() const {
  const std::lock_guard lock(mutex_);
  return directions_;
}

uint64_t LedgerCache::fetched() const {
  const std::lock_guard lock(mutex_);
  return fetched_;
}

uint64_t LedgerCache::reused() const {
  const std::lock_guard lock(mutex_);
  return reused_;
}

}  // namespace heddle::client
