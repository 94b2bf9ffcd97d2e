#include "client/daemon/link.h"

#include <fcntl.h>

#include <charconv>

#include "client/daemon/ledger_weights.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/test_hooks.h"
#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "zo_optim/ledger/ledger.h"

namespace heddle::client {

namespace asio = boost::asio;
using protocol::HttpRequest;
using protocol::HttpResponse;

namespace {

// Longer than any coordinator may hold a check-in (an hour), shorter than for ever.
constexpr Duration kPollLimit = std::chrono::seconds(4000);
// The coordinator checks and folds the update before it answers.
constexpr Duration kReportLimit = std::chrono::seconds(120);
constexpr int kWeightsTries = 3;
constexpr int kMaxPatches = 64;  // of one Upload call

CallFailed Failure(Status status) {
  CallFailed failed;
  failed.status = std::move(status);
  return failed;
}

std::optional<uint64_t> NumberHeader(const HttpResponse& response, std::string_view name) {
  const auto text = response.Header(name);
  uint64_t value = 0;
  if (!text) return std::nullopt;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return value;
}

std::string BlobTarget(const CachedBlob& blob) { return "/v1/blobs/" + blob.digest.ToHex(); }

}  // namespace

CallFailed FailureOf(const HttpResponse& response) {
  CallFailed failed;
  if (const auto refusal = protocol::ParseMessage<v1::Refusal>(response.body);
      refusal.ok() && refusal->reason() != v1::REFUSAL_REASON_UNSPECIFIED) {
    failed.status = protocol::StatusOf(*refusal);
    failed.reason = refusal->reason();
    failed.retry_after = std::chrono::milliseconds(refusal->retry_after_ms());
  } else {
    failed.reason = protocol::ReasonOfHttpStatus(response.status);
    failed.status = Status(protocol::CodeOf(*failed.reason), "the server answered " + std::to_string(response.status));
  }
  if (failed.retry_after == Duration(0)) {
    const uint64_t seconds = NumberHeader(response, "Retry-After").value_or(0);
    failed.retry_after = std::chrono::seconds(std::min<uint64_t>(seconds, protocol::kMaxRetryAfterMs / 1000));
  }
  return failed;
}

CoordinatorLink::CoordinatorLink(asio::any_io_executor executor, protocol::ClientOptions options)
    : client_(std::move(executor), std::move(options)) {}

v1::CheckinRequest CoordinatorLink::CheckinMessage(const std::vector<std::string>& local_tasks, uint64_t memory_bytes,
                                                   BlobCache* cache) const {
  std::optional<Sha256Digest> newest;
  if (forms_.WantsLedger()) {
    const std::optional<CachedBlob> ledger = cache->Recall(std::string(zo::kLedgerFile));
    if (ledger && cache->Find(*ledger)) newest = ledger->digest;
  }
  return forms_.Checkin(local_tasks, memory_bytes, newest);
}

Result<v1::TaskAssignment> CoordinatorLink::TakeAssignment(v1::TaskAssignment sent, BlobCache* cache) {
  std::string patch;
  HEDDLE_ASSIGN_OR_RETURN(v1::TaskAssignment whole, forms_.Take(std::move(sent), &patch));
  for (const v1::BlobRef& file : whole.plan().adapter()) {
    if (patch.empty() || file.name() != zo::kLedgerFile) continue;
    HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, protocol::DigestOf(file));
    const CachedBlob blob{digest, file.size_bytes(), file.name()};
    if (!cache->Find(blob)) TakePatch(blob, patch, cache);  // without it the ledger is fetched
  }
  return whole;
}

asio::awaitable<Event> CoordinatorLink::CheckIn(std::vector<std::string> local_tasks, uint64_t memory_bytes,
                                                BlobCache* cache) {
  for (;;) {
    const bool brief = forms_.on();
    HttpRequest request("POST", "/v1/checkin", CheckinMessage(local_tasks, memory_bytes, cache).SerializeAsString());
    request.answer_timeout = kPollLimit;
    if (brief) request.content_type.clear();
    const Result<HttpResponse> answer = co_await client_.Send(std::move(request));
    if (!answer.ok()) co_return Failure(answer.status());
    if (answer->status != 200) co_return FailureOf(*answer);
    Result<v1::CheckinResponse> parsed = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
    if (!parsed.ok()) co_return Failure(parsed.status().Annotate("the answer to the check-in"));
    if (brief && parsed->rejection().reason() == v1::REJECTION_REASON_UNSUPPORTED_TASK) {
      forms_.Forget();  // another run, whose task was not among what was said
      continue;
    }
    if (parsed->has_assignment()) {
      Result<v1::TaskAssignment> whole = TakeAssignment(std::move(*parsed->mutable_assignment()), cache);
      if (!whole.ok()) co_return Failure(whole.status().Annotate("the answer to the check-in"));
      *parsed->mutable_assignment() = *std::move(whole);
      HEDDLE_FAILPOINT(kClientAssigned);
    }
    CheckinAnswered event;
    event.response = *std::move(parsed);
    co_return event;
  }
}

asio::awaitable<Event> CoordinatorLink::Fetch(std::vector<CachedBlob> blobs, BlobCache* cache) {
  for (const CachedBlob& blob : blobs) {
    if (cache->Find(blob)) continue;
    const bool ledger = blob.name == zo::kLedgerFile;
    if (ledger && co_await FetchPatch(blob, cache)) continue;
    std::optional<CallFailed> failed = co_await FetchOne(blob, cache);
    if (failed && !failed->reason && failed->status.code() == Code::kDataLoss) {
      Log(Severity::kWarning, "fetching again from the start: " + failed->status.message());
      failed = co_await FetchOne(blob, cache);
    }
    if (failed) co_return *std::move(failed);
    if (ledger) cache->Remember(blob);
  }
  co_return Fetched{};
}

namespace {

// The ledger of this digest, from an earlier one and a patch.
Result<std::string> Patched(const std::filesystem::path& from, std::string_view patch, const Sha256Digest& digest) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string before, ReadFile(from, protocol::kMaxPatchedLedgerBytes));
  HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger earlier, zo::DecodeLedger(std::as_bytes(std::span(before))));
  HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger later, zo::ApplyPatch(earlier, std::as_bytes(std::span(patch))));
  std::string bytes = zo::EncodeLedger(later);
  if (Sha256(bytes) != digest) return DataLoss("the patched ledger is not the one that was asked for");
  return bytes;
}

}  // namespace

bool CoordinatorLink::TakePatch(const CachedBlob& blob, std::string_view patch, BlobCache* cache) {
  const std::optional<CachedBlob> have = cache->Recall(blob.name);
  const auto from = have ? cache->Find(*have) : std::nullopt;
  if (!from) return false;
  const auto made = Patched(*from, patch, blob.digest);
  Status status = made.status();
  if (status.ok()) status = cache->Put(blob, *made).status();
  if (!status.ok()) {
    Log(Severity::kWarning, "a ledger could not be patched and is fetched whole", {{"error", status.message()}});
    return false;
  }
  Log(Severity::kInfo, "patched a file", {{"name", blob.name}, {"bytes", patch.size()}});
  cache->Remember(blob);
  return true;
}

asio::awaitable<bool> CoordinatorLink::FetchPatch(const CachedBlob& blob, BlobCache* cache) {
  const std::optional<CachedBlob> have = cache->Recall(blob.name);
  if (!have) co_return false;
  if (!cache->Find(*have)) co_return false;
  HttpRequest request("GET", BlobTarget(blob) + "/from/" + have->digest.ToHex());
  const Result<HttpResponse> answer = co_await client_.Send(std::move(request));
  if (!answer.ok() || answer->status != 200) co_return false;  // whoever fetches it whole will tell why
  co_return TakePatch(blob, answer->body, cache);
}

asio::awaitable<void> CoordinatorLink::FetchWeights(CachedBlob ledger, uint64_t most, BlobCache* cache) {
  if (!ReplaysMoreThan(most, ledger, cache)) co_return;
  HttpRequest request("GET", BlobTarget(ledger) + "/weights");
  const Result<HttpResponse> answer = co_await client_.Send(std::move(request));
  if (!answer.ok() || answer->status != 200) co_return;  // its round is over, say
  Status status;
  const auto ref = protocol::ParseMessage<v1::BlobRef>(answer->body);
  const Result<Sha256Digest> digest = ref.ok() ? protocol::DigestOf(*ref) : ref.status();
  if (digest.ok()) {
    const CachedBlob weights{*digest, ref->size_bytes(), std::string(zo::kLedgerWeightsFile)};
    std::optional<CallFailed> failed;
    // A line that breaks costs less than the replay.
    for (int tries = 0; tries < kWeightsTries && !cache->Find(weights); ++tries) {
      failed = co_await FetchOne(weights, cache);
      if (!failed || failed->reason) break;
      if (failed->status.code() != Code::kUnavailable && failed->status.code() != Code::kDataLoss) break;
    }
    if (!failed) co_return RememberWeights(weights, ledger, cache);
    status = failed->status;
  } else {
    status = digest.status();
  }
  Log(Severity::kWarning, "the weights of a ledger could not be fetched and are replayed",
      {{"error", status.message()}});
}

asio::awaitable<std::optional<CallFailed>> CoordinatorLink::FetchOne(const CachedBlob& blob, BlobCache* cache) {
  Result<BlobCache::Partial> partial = cache->Begin(blob);
  if (!partial.ok()) co_return Failure(partial.status());
  if (partial->offset < blob.size_bytes) {
    Log(Severity::kInfo, partial->offset > 0 ? "fetching the rest of a file" : "fetching a file",
        {{"name", blob.name}, {"bytes", blob.size_bytes}, {"from", partial->offset}});
    const auto download = co_await client_.DownloadTo(BlobTarget(blob), partial->file, partial->offset, blob.size_bytes,
                                                      &partial->hasher);
    if (!download.ok()) co_return Failure(download.status());
    if (download->status != 200 && download->status != 206) co_return FailureOf(download->refusal);
  }
  const auto path = cache->Finish(blob, *std::move(partial));
  if (!path.ok()) co_return Failure(path.status());
  co_return std::nullopt;
}

asio::awaitable<Event> CoordinatorLink::FetchTensors(std::vector<model::TensorFile> tensors, BlobCache* cache) {
  uint64_t fetched = 0, bytes = 0;
  for (const model::TensorFile& tensor : tensors) {
    if (cache->Find(CachedBlob{tensor.digest, tensor.size(), tensor.name})) continue;
    std::optional<CallFailed> failed = co_await FetchTensor(tensor, cache);
    if (failed && !failed->reason && failed->status.code() == Code::kDataLoss) {
      Log(Severity::kWarning, "fetching a tensor again from the start: " + failed->status.message());
      failed = co_await FetchTensor(tensor, cache);
    }
    if (failed) co_return *std::move(failed);
    ++fetched;
    bytes += tensor.bytes;
  }
  Log(Severity::kInfo, "fetched a part of the base model", {{"tensors", fetched}, {"bytes", bytes}});
  co_return Fetched{};
}

// The file's head is made here; the hash over both says whether the bytes are the tensor's.
asio::awaitable<std::optional<CallFailed>> CoordinatorLink::FetchTensor(const model::TensorFile& tensor,
                                                                        BlobCache* cache) {
  const CachedBlob blob{tensor.digest, tensor.size(), tensor.name};
  Result<BlobCache::Partial> partial = cache->Begin(blob);
  if (!partial.ok()) co_return Failure(partial.status());
  if (partial->offset < tensor.head.size()) {
    const std::string_view rest = std::string_view(tensor.head).substr(partial->offset);
    UniqueFd fd(::open(partial->file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    Status written = fd.valid() ? WriteAll(fd.get(), rest, "cannot write " + partial->file.string())
                                : ErrnoStatus(errno, "cannot write " + partial->file.string());
    if (!written.ok()) co_return Failure(std::move(written));
    partial->hasher.Update(rest);
    partial->offset = tensor.head.size();
  }
  if (partial->offset < blob.size_bytes) {
    const uint64_t there = partial->offset - tensor.head.size();
    const std::string target = "/v1/blobs/" + tensor.source_digest.ToHex();
    const auto download = co_await client_.DownloadRange(target, partial->file, partial->offset, tensor.begin + there,
                                                         tensor.bytes - there, &partial->hasher);
    if (!download.ok()) co_return Failure(download.status());
    if (download->status != 206) co_return FailureOf(download->refusal);
  }
  const auto path = cache->Finish(blob, *std::move(partial));
  if (!path.ok()) co_return Failure(path.status().Annotate("the tensor '" + tensor.tensor + "'"));
  co_return std::nullopt;
}

asio::awaitable<Result<HttpResponse>> CoordinatorLink::BeginUpload(const v1::ReportRequest& report,
                                                                   const std::filesystem::path& file, bool fresh) {
  HttpRequest request("POST", "/v1/uploads");
  request.content_type = "application/octet-stream";
  request.answer_timeout = kReportLimit;
  const Result<Sha256Digest> digest = protocol::DigestOf(report.update());
  if (!digest.ok()) co_return digest.status();
  request.headers.emplace_back("Heddle-Assignment", report.assignment_id());
  request.headers.emplace_back("Heddle-Digest", digest->ToHex());
  request.headers.emplace_back("Upload-Length", std::to_string(report.update().size_bytes()));
  if (fresh) {
    Result<HttpResponse> sent = co_await client_.SendFile(std::move(request), file, 0, report.update().size_bytes());
    co_return sent;
  }
  Result<HttpResponse> asked = co_await client_.Send(std::move(request));
  co_return asked;
}

std::optional<Event> CoordinatorLink::UploadProgress(const HttpResponse& response, uint64_t size, uint64_t* offset) {
  const bool conflict = response.status == 409 && NumberHeader(response, "Upload-Offset");
  if (!conflict && (response.status < 200 || response.status > 299)) {
    if (response.status == 404 || response.status == 422) upload_->location.clear();
    return FailureOf(response);
  }
  if (const auto location = response.Header("Location"); location && location->starts_with("/v1/uploads/"))
    upload_->location = std::string(*location);
  const auto at = NumberHeader(response, "Upload-Offset");
  if (response.Header("Upload-Complete") == "1") return Uploaded{};
  if (!at || *at > size) return Failure(Unavailable("the coordinator's answer to the upload makes no sense"));
  if (upload_->location.empty()) return Failure(Unavailable("the coordinator did not say where the upload goes on"));
  *offset = *at;
  return std::nullopt;
}

asio::awaitable<Event> CoordinatorLink::Upload(v1::ReportRequest report, std::filesystem::path file, bool fresh) {
  const uint64_t size = report.update().size_bytes();
  if (!upload_ || upload_->assignment_id != report.assignment_id()) {
    upload_.emplace();
    upload_->assignment_id = report.assignment_id();
    upload_->asked = !fresh;
  }
  // What does the coordinator have? A first request carries the whole body in the hope that nothing breaks.
  Result<HttpResponse> answer = Unavailable("");
  if (upload_->location.empty()) {
    const bool whole = !std::exchange(upload_->asked, true);
    answer = co_await BeginUpload(report, file, whole);
  } else {
    HttpRequest head("HEAD", upload_->location);
    answer = co_await client_.Send(std::move(head));
    if (answer.ok() && answer->status == 404) {
      upload_->location.clear();
      answer = co_await BeginUpload(report, file, false);
    }
  }
  HEDDLE_FAILPOINT(kClientUploadAsked);
  for (int patches = 0;; ++patches) {
    if (!answer.ok()) co_return Failure(answer.status());
    uint64_t offset = 0;
    std::optional<Event> end = UploadProgress(*answer, size, &offset);
    if (end && std::holds_alternative<Uploaded>(*end)) HEDDLE_FAILPOINT(kClientUploaded);
    if (end) co_return *std::move(end);
    if (patches == kMaxPatches) co_return Failure(Unavailable("the upload makes no progress"));
    if (offset > 0) Log(Severity::kInfo, "upload goes on", {{"from", offset}, {"bytes", size}});
    HttpRequest patch("PATCH", upload_->location);
    patch.content_type = "application/octet-stream";
    patch.answer_timeout = kReportLimit;
    patch.headers.emplace_back("Upload-Offset", std::to_string(offset));
    answer = co_await client_.SendFile(std::move(patch), file, offset, size - offset);
  }
}

asio::awaitable<Event> CoordinatorLink::Report(v1::ReportRequest report, std::filesystem::path update) {
  if (!update.empty()) {
    Result<std::string> bytes = ReadFile(update, protocol::kMaxInlineUpdateBytes);
    if (!bytes.ok()) co_return Failure(bytes.status());
    forms_.AddUpdate(*std::move(bytes), &report);
  }
  HttpRequest request("POST", "/v1/reports", report.SerializeAsString());
  if (forms_.on()) request.content_type.clear();
  request.answer_timeout = kReportLimit;
  HEDDLE_FAILPOINT(kClientReportUnsent);
  const Result<HttpResponse> answer = co_await client_.Send(std::move(request));
  if (!answer.ok()) co_return Failure(answer.status());
  if (answer->status != 200) co_return FailureOf(*answer);
  HEDDLE_FAILPOINT(kClientReportAnswered);
  Result<v1::ReportResponse> parsed = protocol::ParseMessage<v1::ReportResponse>(answer->body);
  if (!parsed.ok()) co_return Failure(parsed.status().Annotate("the answer to the report"));
  ReportAnswered event;
  event.response = *std::move(parsed);
  co_return event;
}

}  // namespace heddle::client
