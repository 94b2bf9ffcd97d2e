#include "tests/support/ledger_device.h"

#include <algorithm>
#include <stdexcept>

#include "common/file.h"
#include "common/safetensors.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/scalars.h"

namespace heddle::wire {
namespace {

namespace asio = boost::asio;

client::BlobCache OpenCache(const std::filesystem::path& folder) {
  auto cache = client::BlobCache::Open(folder, uint64_t{1} << 30);
  if (!cache.ok()) throw std::runtime_error(cache.status().ToString());
  return *std::move(cache);
}

Status FailureOf(const client::Event& event) {
  const auto* failed = std::get_if<client::CallFailed>(&event);
  return failed == nullptr ? OkStatus() : failed->status;
}

}  // namespace

LedgerDevice::LedgerDevice(asio::any_io_executor executor, protocol::ClientOptions options,
                           const std::filesystem::path& folder, uint64_t seed)
    : folder_(folder),
      cache_(OpenCache(folder / "cache")),
      link_(std::move(executor), std::move(options)),
      random_(seed) {}

// By what the ledger has changed since the last time, as a worker does it.
Status LedgerDevice::Rebuild(const v1::TaskPlan& plan) {
  std::optional<std::filesystem::path> start, ledger;
  for (const v1::BlobRef& file : plan.adapter()) {
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(file));
    const auto path = cache_.Find({digest, file.size_bytes(), file.name()});
    if (!path) return NotFound(file.name() + " was not fetched");
    if (file.name() == "adapter_model.safetensors") start = path;
    if (file.name() == zo::kLedgerFile) ledger = path;
  }
  if (!start) return NotFound("the plan names no adapter");
  zo::Ledger next = ledger_;
  if (ledger) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(*ledger));
    HEDDLE_ASSIGN_OR_RETURN(next, zo::DecodeLedger(std::as_bytes(std::span(bytes))));
  }
  if (!weights_) {
    HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile file, ReadSafetensors(*start));
    zo::LedgerHead head;
    head.resolution_bits = static_cast<uint8_t>(plan.train().seeds().resolution_bits());
    head.epsilon = plan.train().zo().zo_eps();
    HEDDLE_ASSIGN_OR_RETURN(weights_, aggregation::WeightsOf(file.tensors, zo::LargestScale(head)));
  }
  if (ledger) {
    const zo::Ledger before = ledger_.round == 0 ? zo::EmptyLedger(next.head) : ledger_;
    HEDDLE_RETURN_IF_ERROR(
        zo::ApplyMoves(next.head.distribution, zo::MovesBetween(before, next), weights_->parameters));
  }
  ledger_ = std::move(next);
  proof_ = zo::DigestOfWeights(weights_->parameters);
  return OkStatus();
}

std::string LedgerDevice::MakeUpdate(const v1::TrainPlan& train) {
  const auto format = train.seeds().scalars() == "bfloat16" ? zo::ScalarFormat::kBfloat16 : zo::ScalarFormat::kFloat32;
  zo::Scalars scalars{.steps = {}, .weights = proof_, .skipped = 0};
  const uint64_t directions = uint64_t{train.local_steps()} * std::max(1U, train.zo().num_perturbations());
  for (uint64_t i = 0; i < directions; ++i) {
    const uint32_t pool = train.seeds().pool_size();
    const float gradient = 2 * (random_.NextUniform() + random_.NextUniform() + random_.NextUniform() - 1.5F);
    scalars.steps.push_back({pool > 0 ? random_.NextBelow(pool) : train.seeds().first_ref() + i,
                             zo::TravellingScalar(static_cast<double>(gradient), 100, format)});
  }
  std::stable_sort(scalars.steps.begin(), scalars.steps.end(),
                   [](const auto& a, const auto& b) { return a.ref < b.ref; });
  return zo::UpdateOfScalars(zo::EncodeScalars(scalars, format));
}

asio::awaitable<Status> LedgerDevice::Round() {
  // What heddle-client says.
  const std::vector<std::string> tasks = {"bbpt",       "few_shot", "lora_sft",  "part_sft",
                                          "prefix_sft", "sft",      "zo_ledger", "zo_sft"};
  client::Event event = co_await link_.CheckIn(tasks, 0, &cache_);
  if (Status failed = FailureOf(event); !failed.ok()) co_return failed;
  const v1::CheckinResponse& answer = std::get<client::CheckinAnswered>(event).response;
  if (!answer.has_assignment()) co_return Unavailable("a check-in brought no task");
  const v1::TaskAssignment task = answer.assignment();
  std::vector<client::CachedBlob> blobs;
  for (const v1::BlobRef& file : task.plan().adapter()) {
    const auto digest = protocol::DigestOf(file);
    if (!digest.ok()) co_return digest.status();
    blobs.push_back({*digest, file.size_bytes(), file.name()});
  }
  event = co_await link_.Fetch(blobs, &cache_);
  if (Status failed = FailureOf(event); !failed.ok()) co_return failed;
  if (Status rebuilt = Rebuild(task.plan()); !rebuilt.ok()) co_return rebuilt;
  const std::string update = MakeUpdate(task.plan().train());
  const std::filesystem::path file = folder_ / "update.safetensors";
  if (Status written = WriteFileAtomically(file, update); !written.ok()) co_return written;
  v1::ReportRequest report;
  report.set_assignment_id(task.assignment_id());
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(Sha256(update), update.size(), "update.safetensors");
  report.set_parent_sha256(task.plan().adapter().rbegin()->sha256());
  // Each field as long as a worker's.
  v1::TaskMetrics& metrics = *report.mutable_metrics();
  metrics.set_num_examples(task.plan().train().batch_size() * task.plan().train().local_steps());
  metrics.set_steps(task.plan().train().local_steps());
  metrics.set_num_tokens(metrics.num_examples() * task.plan().train().sequence_length());
  for (const auto set : {&v1::TaskMetrics::set_train_loss, &v1::TaskMetrics::set_first_loss,
                         &v1::TaskMetrics::set_last_loss, &v1::TaskMetrics::set_train_seconds}) {
    (metrics.*set)(1 + static_cast<double>(random_.NextUniform()));
  }
  metrics.set_peak_memory_bytes(uint64_t{200} << 20);
  metrics.set_forward_passes(2 * metrics.steps() * std::max(1U, task.plan().train().zo().num_perturbations()));
  event = co_await link_.Report(report, file);
  if (Status failed = FailureOf(event); !failed.ok()) co_return failed;
  const v1::ReportResponse& verdict = std::get<client::ReportAnswered>(event).response;
  if (verdict.verdict() != v1::REPORT_VERDICT_ACCEPTED) {
    co_return Internal("the scalars were not accepted: " + verdict.refusal().message());
  }
  co_return OkStatus();
}

}  // namespace heddle::wire
