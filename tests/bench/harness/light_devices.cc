#include "light_devices.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <chrono>
#include <future>

#include "common/digest.h"
#include "common/file.h"
#include "coordinator/store/store.h"
#include "protocol/limits.h"
#include "protocol/transport/tls.h"
#include "protocol/v1/device.pb.h"
#include "protocol/validate.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
namespace json = boost::json;
using protocol::HttpRequest;
using protocol::HttpResponse;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string NameOf(int index) { return "bench-" + std::to_string(10000 + index); }

Status Unexpected(const std::string& what, const HttpResponse& response) {
  const auto refusal = protocol::ParseMessage<v1::Refusal>(response.body);
  return Internal(what + " was answered with status " + std::to_string(response.status) +
                  (refusal.ok() ? ": " + refusal->message() : std::string()));
}

}  // namespace

struct LightDevices::Device {
  std::string name;
  fs::path update;
  uint64_t update_bytes = 0;
  Sha256Digest digest;
  asio::any_io_executor executor;
  std::unique_ptr<protocol::HttpClient> client;
  std::shared_ptr<asio::ssl::context> tls;  // its own
  double started = 0, uploaded = 0, reported = 0;
  int index = 0;
  std::string small;  // an update that goes along in its report
};

LightDevices::LightDevices(const Context& context, fs::path folder, int count)
    : context_(context),
      folder_(std::move(folder)),
      fleet_({.folder = folder_ / "fleet",
              .bin = context.bin,
              .coordinator_settings = {{"log.level", "\"warning\""},
                                       {"limits.max_connections_per_address", "0"},
                                       // A device that connects anew may be there before its old connection is gone.
                                       {"limits.max_connections", std::to_string(std::max(10'000, count + count / 10))},
                                       {"limits.device_requests_per_s", "0"}}}),
      guard_(asio::make_work_guard(io_)) {
  for (int i = 0; i < 2; ++i) threads_.emplace_back([this] { io_.run(); });
  for (int i = 0; i < count; ++i) {
    auto device = std::make_unique<Device>();
    device->name = NameOf(i);
    device->index = i;
    device->update = folder_ / ("update-" + std::to_string(i));
    device->executor = asio::make_strand(io_);
    devices_.push_back(std::move(device));
  }
}

LightDevices::~LightDevices() {
  guard_.reset();
  io_.stop();
  for (std::thread& thread : threads_) thread.join();
  devices_.clear();
}

Status LightDevices::StartCoordinator() {
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder_));
  HEDDLE_RETURN_IF_ERROR(fleet_.StartCoordinator());
  // Rows are written behind its back, so it must not run meanwhile.
  fleet_.coordinator_process().Signal(SIGTERM);
  if (fleet_.coordinator_process().WaitFor(Seconds(20)) != 0) return Internal("the coordinator did not stop");
  HEDDLE_RETURN_IF_ERROR(Enrol());
  // Its port may have gone to somebody's outgoing connection meanwhile, which ends soon.
  Status restarted = fleet_.RestartCoordinator();
  for (int i = 0; i < 5 && !restarted.ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    restarted = fleet_.RestartCoordinator();
  }
  HEDDLE_RETURN_IF_ERROR(restarted);
  return Connect();
}

Status LightDevices::Enrol() {
  const Duration year = std::chrono::hours(24 * 365);
  const fs::path key = pki() / "device.key";
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(pki()));
  for (const char* name : {"ca.crt", "server.crt", "server.key"}) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(fleet_.config().pki() / name));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(pki() / name, text, 0600));
  }
  HEDDLE_ASSIGN_OR_RETURN(const auto authority, protocol::CertificateAuthority::Load(fleet_.config().pki()));
  HEDDLE_ASSIGN_OR_RETURN(const auto store, coordinator::Store::Open(fleet_.config().database()));
  HEDDLE_RETURN_IF_ERROR(protocol::GenerateKeyFile(key));
  HEDDLE_ASSIGN_OR_RETURN(const std::string request, protocol::MakeCsrDer(key, "bench"));
  const Time now = SystemClock().Now();
  for (const auto& device : devices_) {
    const DeviceId id(device->name);
    HEDDLE_ASSIGN_OR_RETURN(const auto issued, authority.IssueDevice(request, id, year));
    const Sha256Digest token = Sha256(device->name);
    HEDDLE_RETURN_IF_ERROR(store->CreateToken(token, id, now + year));
    coordinator::DeviceRecord record;
    record.device = id;
    record.serial = issued.serial_hex;
    record.not_after = issued.not_after;
    record.enrolled_at = now;
    HEDDLE_RETURN_IF_ERROR(store->RedeemToken(token, now, record));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(pki() / (device->name + ".crt"), issued.certificate_pem));
    if (device->index == 0) {
      HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(pki() / "device.crt", issued.certificate_pem));
    }
  }
  return OkStatus();
}

Status LightDevices::Connect() {
  HEDDLE_ASSIGN_OR_RETURN(const std::string ca, ReadFile(pki() / "ca.crt"));
  for (const auto& device : devices_) {
    protocol::ClientTlsOptions tls;
    tls.ca_pem = ca;
    tls.certificate = pki() / (device->name + ".crt");
    tls.key = pki() / "device.key";
    protocol::ClientOptions options;
    options.host = "127.0.0.1";
    options.port = fleet_.device_port();
    HEDDLE_ASSIGN_OR_RETURN(options.tls, protocol::MakeClientTls(tls));
    device->tls = options.tls;
    device->client = std::make_unique<protocol::HttpClient>(device->executor, options);
  }
  return OkStatus();
}

LightDevices::Handshakes LightDevices::handshakes() const {
  Handshakes sum;
  for (const auto& device : devices_) {
    sum.all += SSL_CTX_sess_connect_good(device->tls->native_handle());
    sum.resumed += SSL_CTX_sess_hits(device->tls->native_handle());
  }
  return sum;
}

Status LightDevices::Submit(const SyntheticShape& shape, uint32_t rounds,
                            const std::map<std::string, std::string>& settings) {
  HEDDLE_ASSIGN_OR_RETURN(
      run_,
      MakeSyntheticRun(folder_ / "run", context_.source / "model" / "pretrained" / "heddle-tiny" / "tokenizer.json",
                       shape, static_cast<uint32_t>(devices_.size()), rounds));
  for (const auto& device : devices_) {
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(device->update, run_.update));
    device->update_bytes = run_.update.size();
  }
  run_.update = std::string();
  std::vector<std::string> submit = {"heddle", "--config", (fleet_.folder() / "coordinator.toml").string(),
                                     "run",    "submit",   run_.recipe.string()};
  for (const auto& [key, value] : settings) submit.insert(submit.end(), {"--set", key + "=" + value});
  HEDDLE_ASSIGN_OR_RETURN(run_id_, fleet_.RunTool(submit));
  while (!run_id_.empty() && run_id_.back() == '\n') run_id_.pop_back();
  return OkStatus();
}

// No two updates are the same file: equal blobs would be kept once.
Status LightDevices::Prepare(Device& device) {
  const float mark = static_cast<float>(round_) * 1e-3F + static_cast<float>(device.index) * 1e-6F;
  {
    const UniqueFd fd(::open(device.update.c_str(), O_WRONLY | O_CLOEXEC));
    if (::pwrite(fd.get(), &mark, sizeof mark, static_cast<off_t>(run_.first_value_offset)) != sizeof mark ||
        ::fsync(fd.get()) != 0) {
      return ErrnoStatus(errno, "cannot write " + device.update.string());
    }
  }
  HEDDLE_ASSIGN_OR_RETURN(device.digest, Sha256File(device.update));
  return OkStatus();
}

Status LightDevices::All(asio::awaitable<Status> (*work)(Device&)) {
  std::vector<std::future<Status>> futures;
  for (const auto& device : devices_) {
    futures.push_back(asio::co_spawn(device->executor, work(*device), asio::use_future));
  }
  Status first;
  for (size_t i = 0; i < futures.size(); ++i) {
    Status status = futures[i].get();
    if (first.ok() && !status.ok()) first = status.Annotate(devices_[i]->name);
  }
  return first;
}

Status LightDevices::Each(const Work& work) {
  std::vector<std::future<Status>> futures;
  for (const auto& device : devices_) {
    futures.push_back(asio::co_spawn(device->executor, work(device->index, *device->client), asio::use_future));
  }
  Status first;
  for (size_t i = 0; i < futures.size(); ++i) {
    const Status status = futures[i].get();
    if (first.ok() && !status.ok()) first = status.Annotate(devices_[i]->name);
  }
  return first;
}

namespace {

asio::awaitable<Result<v1::CheckinResponse>> CheckIn(protocol::HttpClient& client) {
  v1::CheckinRequest message;
  message.set_protocol_version(protocol::kProtocolVersion);
  message.set_software_version("bench");
  message.add_local_tasks("lora_sft");
  HttpRequest request("POST", "/v1/checkin", message.SerializeAsString());
  request.answer_timeout = Seconds(600);
  const Result<HttpResponse> answer = co_await client.Send(std::move(request));
  if (!answer.ok()) co_return answer.status();
  if (answer->status != 200) co_return Unexpected("a check-in", *answer);
  Result<v1::CheckinResponse> parsed = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
  co_return parsed;
}

// Accepted, or an error.
asio::awaitable<Status> SendReport(protocol::HttpClient& client, v1::ReportRequest report) {
  HttpRequest request("POST", "/v1/reports", report.SerializeAsString());
  const Result<HttpResponse> answer = co_await client.Send(std::move(request));
  if (!answer.ok()) co_return answer.status();
  if (answer->status != 200) co_return Unexpected("a report", *answer);
  const auto verdict = protocol::ParseMessage<v1::ReportResponse>(answer->body);
  if (!verdict.ok()) co_return verdict.status();
  if (verdict->verdict() != v1::REPORT_VERDICT_ACCEPTED) {
    co_return Internal("an update was not accepted: " + verdict->refusal().message());
  }
  co_return OkStatus();
}

}  // namespace

asio::awaitable<Status> LightDevices::RunRound(Device& device) {
  protocol::HttpClient& client = *device.client;
  device.started = Now();
  const Result<v1::CheckinResponse> checkin = co_await CheckIn(client);
  if (!checkin.ok()) co_return checkin.status();
  if (!checkin->has_assignment()) co_return Internal("a check-in brought no task");
  const v1::TaskAssignment& task = checkin->assignment();
  const v1::BlobRef& adapter = task.plan().adapter(1);
  const Result<Sha256Digest> expected = protocol::DigestOf(adapter);
  if (!expected.ok()) co_return expected.status();

  Sha256Hasher hasher;
  std::string target = "/v1/blobs/" + expected->ToHex();
  // Hashed and let go, as the bare streams do with it.
  const auto download = co_await client.DownloadTo(std::move(target), "/dev/null", 0, adapter.size_bytes(), &hasher);
  if (!download.ok()) co_return download.status();
  if (download->status != 200) co_return Unexpected("a download", download->refusal);
  if (hasher.Finish() != *expected) co_return DataLoss("the hash of a download is wrong");

  HttpRequest upload("POST", "/v1/uploads");
  upload.content_type = "application/octet-stream";
  upload.headers.emplace_back("Heddle-Assignment", task.assignment_id());
  upload.headers.emplace_back("Heddle-Digest", device.digest.ToHex());
  upload.headers.emplace_back("Upload-Length", std::to_string(device.update_bytes));
  const auto uploaded = co_await client.SendFile(std::move(upload), device.update, 0, device.update_bytes);
  if (!uploaded.ok()) co_return uploaded.status();
  if (uploaded->status != 201 || uploaded->Header("Upload-Complete") != "1") {
    co_return Unexpected("an upload", *uploaded);
  }
  device.uploaded = Now();

  v1::ReportRequest report;
  report.set_assignment_id(task.assignment_id());
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(device.digest, device.update_bytes, "update.safetensors");
  report.mutable_metrics()->set_num_examples(1);
  report.mutable_metrics()->set_steps(1);
  const Status accepted = co_await SendReport(client, std::move(report));
  device.reported = Now();
  co_return accepted;
}

asio::awaitable<Status> LightDevices::RunSmallRound(Device& device) {
  protocol::HttpClient& client = *device.client;
  const Result<v1::CheckinResponse> checkin = co_await CheckIn(client);
  if (!checkin.ok()) co_return checkin.status();
  if (!checkin->has_assignment()) co_return Internal("a check-in brought no task");
  v1::ReportRequest report;
  report.set_assignment_id(checkin->assignment().assignment_id());
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(Sha256(device.small), device.small.size(), "update.safetensors");
  report.set_inline_update(device.small);
  report.mutable_metrics()->set_num_examples(1);
  report.mutable_metrics()->set_steps(1);
  const Status accepted = co_await SendReport(client, std::move(report));
  co_return accepted;
}

Result<double> LightDevices::SmallRounds(uint32_t rounds) {
  double seconds = 0;
  for (uint32_t i = 0; i < rounds; ++i) {
    ++round_;
    for (const auto& device : devices_) {
      HEDDLE_RETURN_IF_ERROR(Prepare(*device));
      HEDDLE_ASSIGN_OR_RETURN(device->small, ReadFile(device->update));
    }
    const double begun = Now();
    HEDDLE_RETURN_IF_ERROR(All(&LightDevices::RunSmallRound));
    if (i > 0) seconds += Now() - begun;
  }
  return seconds;
}

Result<RoundTime> LightDevices::Round() {
  ++round_;
  for (const auto& device : devices_) HEDDLE_RETURN_IF_ERROR(Prepare(*device));
  ::sync();  // what the devices prepared is not for the coordinator's disk to write
  const auto cpu = [this]() -> Result<double> {
    HEDDLE_ASSIGN_OR_RETURN(const double coordinator, ProcessorSeconds(fleet_.coordinator_process().pid()));
    HEDDLE_ASSIGN_OR_RETURN(const double devices, ProcessorSeconds(::getpid()));
    return coordinator + devices;
  };
  HEDDLE_ASSIGN_OR_RETURN(const double before, cpu());
  HEDDLE_RETURN_IF_ERROR(All(&LightDevices::RunRound));
  HEDDLE_ASSIGN_OR_RETURN(const double after, cpu());
  double first = devices_.front()->started, uploaded = 0, reported = 0;
  for (const auto& device : devices_) {
    first = std::min(first, device->started);
    uploaded = std::max(uploaded, device->uploaded);
    reported = std::max(reported, device->reported);
  }
  return RoundTime{.trip = uploaded - first, .whole = reported - first, .cpu = after - before};
}

asio::awaitable<Status> LightDevices::PollForever(Device& device) {
  for (;;) {
    const Result<v1::CheckinResponse> checkin = co_await CheckIn(*device.client);
    if (!checkin.ok()) co_return checkin.status();
  }
}

Status LightDevices::WaitInLobby() {
  for (const auto& device : devices_) {
    asio::co_spawn(device->executor, PollForever(*device), asio::detached);
  }
  const std::string wanted = "heddle_clients_waiting " + std::to_string(devices_.size()) + "\n";
  for (int i = 0; i < 600; ++i) {
    HEDDLE_RETURN_IF_ERROR(fleet_.CheckAlive());
    HEDDLE_ASSIGN_OR_RETURN(const std::string metrics, fleet_.admin().GetText("/metrics"));
    if (metrics.find(wanted) != std::string::npos) return OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return DeadlineExceeded("not all of " + std::to_string(devices_.size()) + " devices came to wait");
}

Result<std::vector<double>> LightDevices::RoundSeconds() {
  HEDDLE_ASSIGN_OR_RETURN(const json::object run, fleet_.admin().Get("/v1/runs/" + run_id_));
  HEDDLE_ASSIGN_OR_RETURN(const std::string text,
                          ReadFile(fs::path(json::value_to<std::string>(run.at("folder"))) / "history.jsonl"));
  std::vector<double> seconds;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const json::value line = json::parse(std::string_view(text).substr(begin, end - begin));
    seconds.push_back(line.at("seconds").to_number<double>());
    begin = end + 1;
  }
  if (seconds.size() != static_cast<size_t>(round_)) return Internal("history.jsonl has not a line for each round");
  return seconds;
}

Status LightDevices::Stop() { return fleet_.Stop(); }

}  // namespace heddle::bench
