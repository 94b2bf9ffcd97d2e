#include "tests/unit/client/fake_coordinator.h"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace heddle::client {

namespace asio = boost::asio;
using protocol::Awaitable;
using protocol::Exchange;
using protocol::Headers;

FakeCoordinator::FakeCoordinator(bool tls) : tls_(tls) {
  protocol::ServerOptions options;
  if (tls) options.tls = pki_.ServerTls();
  server_ = std::make_unique<protocol::Server>(threads_.io(), options,
                                               [this](Exchange& exchange) { return Handle(exchange); });
  protocol::Pki::Check(server_->Start());
}

FakeCoordinator::~FakeCoordinator() { server_->Stop(Seconds(1)); }

std::string FakeCoordinator::IssueToken(const std::string& device) {
  const std::lock_guard lock(mutex_);
  const std::string secret = "secret-of-" + device;
  tokens_[secret] = device;
  return secret + "." + pki_.authority().fingerprint();
}

v1::BlobRef FakeCoordinator::AddBlob(const std::string& bytes, const std::string& name) {
  const Sha256Digest digest = Sha256(bytes);
  const std::lock_guard lock(mutex_);
  blobs_[digest.ToHex()] = bytes;
  return protocol::MakeBlobRef(digest, bytes.size(), name);
}

v1::TaskAssignment FakeCoordinator::MakeAssignment(int number, size_t model_bytes, uint32_t batch_size) {
  v1::TaskAssignment assignment;
  assignment.set_assignment_id(std::string(24, 'a') + std::to_string(10'000'000 + number));
  assignment.set_run_id("run-1");
  assignment.set_round(1);
  assignment.set_attempt(1);
  assignment.set_deadline_unix_us(1'900'000'000'000'000);
  v1::TaskPlan& plan = *assignment.mutable_plan();
  plan.set_local_task("sum");
  *plan.add_base_model() = AddBlob("{}", "config.json");
  *plan.add_base_model() = AddBlob(protocol::MakeBytes(model_bytes, 77), "model.safetensors");
  *plan.add_adapter() = AddBlob("adapter " + std::to_string(number), "adapter_model.safetensors");
  plan.mutable_train()->set_local_steps(3);
  plan.mutable_train()->set_batch_size(batch_size);
  plan.mutable_train()->set_sequence_length(8);
  plan.mutable_train()->set_threads(1);
  plan.mutable_train()->set_epsilon(1e-8);
  plan.set_seed(static_cast<uint64_t>(number));
  plan.set_max_update_bytes(uint64_t{1} << 30);
  plan.set_max_num_examples(1'000'000);
  return assignment;
}

v1::TaskAssignment FakeCoordinator::MakePartAssignment(int number, const std::map<std::string, std::string>& base,
                                                       const std::map<std::string, std::string>& trees,
                                                       const std::vector<uint32_t>& layers) {
  v1::TaskAssignment assignment = MakeAssignment(number);
  v1::TaskPlan& plan = *assignment.mutable_plan();
  plan.clear_base_model();
  for (const auto& [name, bytes] : base) *plan.add_base_model() = AddBlob(bytes, name);
  for (const auto& [name, bytes] : trees) *plan.add_tensor_trees() = AddBlob(bytes, name);
  plan.mutable_train()->mutable_layers()->Assign(layers.begin(), layers.end());
  return assignment;
}

void FakeCoordinator::AddLedger(const std::string& ledger, const std::optional<std::string>& weights,
                                v1::TaskAssignment* assignment) {
  *assignment->mutable_plan()->add_adapter() = AddBlob(ledger, "ledger.bin");
  if (!weights) return;
  const std::string named = AddBlob(*weights, "ledger_weights.safetensors").SerializeAsString();
  const std::lock_guard lock(mutex_);
  blobs_[Sha256(ledger).ToHex() + "/weights"] = named;
}

void FakeCoordinator::Offer(const v1::TaskAssignment& assignment) {
  const std::lock_guard lock(mutex_);
  offers_.push_back(assignment);
}

void FakeCoordinator::RefuseNext(const std::string& path, v1::Refusal refusal) {
  const std::lock_guard lock(mutex_);
  refusals_[path].push_back(std::move(refusal));
}

void FakeCoordinator::StopRefusing() {
  const std::lock_guard lock(mutex_);
  refusals_.clear();
}

void FakeCoordinator::Corrupt(const v1::BlobRef& ref, std::string bytes) {
  const std::lock_guard lock(mutex_);
  blobs_[Sha256Digest::FromBytes(ref.sha256())->ToHex()] = std::move(bytes);
}

std::vector<std::string> FakeCoordinator::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

size_t FakeCoordinator::CountRequests(const std::string& part) const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(
      std::count_if(requests_.begin(), requests_.end(), [&](const auto& r) { return r.find(part) != r.npos; }));
}

std::vector<v1::CheckinRequest> FakeCoordinator::checkins() const {
  const std::lock_guard lock(mutex_);
  return checkins_;
}

std::vector<v1::ReportRequest> FakeCoordinator::reports() const {
  const std::lock_guard lock(mutex_);
  return reports_;
}

std::optional<std::string> FakeCoordinator::Upload(const std::string& assignment_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = uploads_.find(assignment_id);
  if (found == uploads_.end() || found->second.bytes.size() != found->second.length) return std::nullopt;
  return found->second.bytes;
}

std::optional<std::string> FakeCoordinator::InlineUpdate(const std::string& assignment_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = inline_updates_.find(assignment_id);
  return found == inline_updates_.end() ? std::nullopt : std::optional(found->second);
}

std::set<std::string> FakeCoordinator::devices() const {
  const std::lock_guard lock(mutex_);
  return devices_;
}

// ---- the wire ----

Awaitable<void> FakeCoordinator::Refuse(Exchange& exchange, v1::Refusal refusal) {
  co_await exchange.Respond(protocol::HttpStatusOf(refusal.reason()), std::string(protocol::kProtobufContentType),
                            protocol::SerializeRefusal(refusal));
}

Awaitable<void> FakeCoordinator::Handle(Exchange& exchange) {
  const std::string path = exchange.path();
  std::optional<v1::Refusal> refusal;
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::string(exchange.method()) + " " + path + " " +
                        std::string(exchange.Header("Range").value_or("")));
    for (auto& [prefix, queue] : refusals_) {
      if (refusal || !path.starts_with(prefix) || queue.empty()) continue;
      refusal = queue.front();
      queue.pop_front();
    }
    if (path != "/v1/enroll") {
      devices_.insert(tls_ ? exchange.peer().device : std::string(exchange.Header("Heddle-Device").value_or("?")));
    }
  }
  if (refusal) co_return co_await Refuse(exchange, *refusal);
  if (path == "/v1/enroll") co_return co_await Enroll(exchange);
  if (tls_ && !exchange.peer().authenticated) {
    const v1::Refusal unknown = protocol::MakeRefusal(v1::REFUSAL_REASON_UNAUTHENTICATED, "who are you?");
    co_return co_await Refuse(exchange, unknown);
  }
  if (path == "/v1/checkin") co_return co_await Checkin(exchange);
  if (path == "/v1/reports") co_return co_await Report(exchange);
  if (path == "/v1/uploads") co_return co_await BeginUpload(exchange);
  if (path.starts_with("/v1/uploads/")) co_return co_await ContinueUpload(exchange);
  co_await Blob(exchange);
}

Awaitable<void> FakeCoordinator::Enroll(Exchange& exchange) {
  const Result<std::string> body = co_await exchange.ReadAll(1 << 20);
  const auto request = protocol::ParseMessage<v1::EnrollRequest>(body.ok() ? *body : "");
  std::string device;
  if (request.ok()) {
    const std::lock_guard lock(mutex_);
    const auto token = tokens_.find(request->token());
    if (token != tokens_.end()) {
      device = token->second;
      tokens_.erase(token);
    }
  }
  if (device.empty()) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_BAD_TOKEN, "used, unknown or expired");
    co_return co_await Refuse(exchange, refusal);
  }
  const auto issued = pki_.authority().IssueDevice(request->csr_der(), DeviceId(device), protocol::kYear);
  v1::EnrollResponse response;
  response.set_certificate_pem(issued->certificate_pem);
  response.set_ca_certificate_pem(pki_.authority().certificate_pem());
  response.set_device_id(device);
  co_await exchange.Respond(200, std::string(protocol::kProtobufContentType), response.SerializeAsString());
}

Awaitable<void> FakeCoordinator::Checkin(Exchange& exchange) {
  using asio::experimental::awaitable_operators::operator||;
  const Result<std::string> body = co_await exchange.ReadAll(1 << 20);
  const auto request = protocol::ParseMessage<v1::CheckinRequest>(body.ok() ? *body : "");
  if (!request.ok()) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_MALFORMED, request.status().message());
    co_return co_await Refuse(exchange, refusal);
  }
  {
    const std::lock_guard lock(mutex_);
    checkins_.push_back(*request);
  }
  asio::steady_timer timer(co_await asio::this_coro::executor);
  v1::CheckinResponse response;
  while (!response.has_assignment()) {
    {
      const std::lock_guard lock(mutex_);
      if (!offers_.empty()) {
        *response.mutable_assignment() = offers_.front();
        offers_.pop_front();
        break;
      }
    }
    timer.expires_after(std::chrono::milliseconds(2));
    const auto first = co_await (timer.async_wait(asio::use_awaitable) || exchange.WaitGone());
    if (first.index() == 1) co_return;
  }
  co_await exchange.Respond(200, std::string(protocol::kProtobufContentType), response.SerializeAsString());
}

Awaitable<void> FakeCoordinator::Blob(Exchange& exchange) {
  std::optional<std::string> bytes;
  {
    const std::lock_guard lock(mutex_);
    const auto found = blobs_.find(exchange.path().substr(std::string("/v1/blobs/").size()));
    if (found != blobs_.end()) bytes = found->second;
  }
  if (!bytes) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_NOT_FOUND, "no such blob");
    co_return co_await Refuse(exchange, refusal);
  }
  const auto range = protocol::ParseRange(exchange.Header("Range"), bytes->size());
  Headers headers;
  unsigned status = 200;
  if (range.ok() && *range) {
    status = 206;
    headers.emplace_back("Content-Range", "bytes " + std::to_string((*range)->offset) + "-" +
                                              std::to_string((*range)->offset + (*range)->length - 1) + "/" +
                                              std::to_string(bytes->size()));
    bytes = bytes->substr((*range)->offset, (*range)->length);
  }
  co_await exchange.Respond(status, "application/octet-stream", *bytes, headers);
}

// What arrives before a break stays, as in the real one.
Awaitable<void> FakeCoordinator::TakeBody(Exchange& exchange, UploadState& upload, unsigned status) {
  std::vector<std::byte> buffer(size_t{16} << 10);
  for (;;) {
    const Result<size_t> got = co_await exchange.ReadBody(buffer);
    if (!got.ok()) co_return;
    if (*got == 0) break;
    const std::lock_guard lock(mutex_);
    upload.bytes.append(reinterpret_cast<const char*>(buffer.data()), *got);
  }
  bool complete = false;
  Headers headers;
  {
    const std::lock_guard lock(mutex_);
    complete = upload.bytes.size() == upload.length;
    if (complete && Sha256(upload.bytes).ToHex() != upload.digest) {
      upload.bytes.clear();
      status = 422;
    }
    headers.emplace_back("Location", "/v1/uploads/" + upload.id);
    headers.emplace_back("Upload-Offset", std::to_string(upload.bytes.size()));
  }
  if (status == 422) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_DIGEST_MISMATCH, "other bytes");
    co_return co_await Refuse(exchange, refusal);
  }
  if (complete) headers.emplace_back("Upload-Complete", "1");
  co_await exchange.Respond(status, "", "", headers);
}

Awaitable<void> FakeCoordinator::BeginUpload(Exchange& exchange) {
  const std::string assignment(exchange.Header("Heddle-Assignment").value_or(""));
  UploadState* upload = nullptr;
  unsigned status = 200;
  {
    const std::lock_guard lock(mutex_);
    const auto [entry, fresh] = uploads_.try_emplace(assignment);
    upload = &entry->second;
    if (fresh) {
      status = 201;
      upload->id = "upload-" + assignment;
      upload->digest = std::string(exchange.Header("Heddle-Digest").value_or(""));
      upload->length = std::stoull(std::string(exchange.Header("Upload-Length").value_or("0")));
    }
  }
  co_await TakeBody(exchange, *upload, status);
}

Awaitable<void> FakeCoordinator::ContinueUpload(Exchange& exchange) {
  UploadState* upload = nullptr;
  Headers headers;
  bool right_offset = false;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [assignment, state] : uploads_) {
      if (exchange.path() == "/v1/uploads/" + state.id) upload = &state;
    }
    if (upload) {
      headers.emplace_back("Upload-Offset", std::to_string(upload->bytes.size()));
      right_offset = exchange.Header("Upload-Offset") == std::to_string(upload->bytes.size());
    }
  }
  if (!upload) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_NOT_FOUND, "no such upload");
    co_return co_await Refuse(exchange, refusal);
  }
  if (exchange.method() == "HEAD") {
    headers.emplace_back("Upload-Length", std::to_string(upload->length));
    co_await exchange.Respond(200, "", "", headers);
    co_return;
  }
  if (!right_offset) {
    co_await exchange.Respond(409, "", "", headers);
    co_return;
  }
  co_await TakeBody(exchange, *upload, 204);
}

Awaitable<void> FakeCoordinator::Report(Exchange& exchange) {
  const Result<std::string> body = co_await exchange.ReadAll(1 << 20);
  const auto request = protocol::ParseMessage<v1::ReportRequest>(body.ok() ? *body : "");
  if (!request.ok()) {
    const v1::Refusal refusal = protocol::MakeRefusal(v1::REFUSAL_REASON_MALFORMED, request.status().message());
    co_return co_await Refuse(exchange, refusal);
  }
  v1::ReportResponse response;
  response.set_verdict(request->outcome() == v1::TASK_OUTCOME_COMPLETED ? verdict_.load() : v1::REPORT_VERDICT_NOTED);
  if (response.verdict() == v1::REPORT_VERDICT_INVALID)
    *response.mutable_refusal() = protocol::MakeRefusal(v1::REFUSAL_REASON_NOT_FINITE, "NaN");
  {
    const std::lock_guard lock(mutex_);
    reports_.push_back(*request);
    if (!request->inline_update().empty()) inline_updates_[request->assignment_id()] = request->inline_update();
  }
  co_await exchange.Respond(200, std::string(protocol::kProtobufContentType), response.SerializeAsString());
}

}  // namespace heddle::client
