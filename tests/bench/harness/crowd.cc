#include "crowd.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>

#include "aggregation/aggregator.h"
#include "common/digest.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "coordinator/recipe/recipe.h"
#include "history.h"
#include "light_devices.h"
#include "protocol/v1/device.pb.h"
#include "protocol/validate.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
namespace json = boost::json;
using protocol::HttpRequest;
using protocol::HttpResponse;

enum class Role { kHonest, kVanish, kAttack, kLate };
enum class Attack { kNotSafetensors, kNotFinite, kWrongShape, kForeignAssignment };
constexpr int kAttacks = 4;

// What the coroutines of all devices share.
struct Crowd {
  CrowdOptions options;
  StateDict adapter;  // the initial one
  std::mutex mutex;
  std::string honest_assignment;  // of an honest device, once one is known
  std::vector<int> accepted;      // indices
  std::atomic<int> refused{0}, late{0}, vanished{0};
};

// By index, so that each role is spread over the crowd.
Role RoleOf(const CrowdOptions& options, int index) {
  const auto many = [&](double share) { return static_cast<int>(std::lround(share * options.devices)); };
  // A walk through all indices in steps that share no factor with their number.
  int place = static_cast<int>((int64_t{index} * 7919) % options.devices);
  if ((place -= many(options.attack)) < 0) return Role::kAttack;
  if ((place -= many(options.late)) < 0) return Role::kLate;
  if ((place -= many(options.vanish)) < 0) return Role::kVanish;
  return Role::kHonest;
}

StateDict UpdateOf(const StateDict& adapter, int index) {
  StateDict update;
  const PhiloxStream random(DeriveSeed(5, "crowd", std::to_string(index)));
  uint64_t next = 0;
  for (const auto& [name, tensor] : adapter) {
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    for (float& value : values) value = (random.UniformAt(next++) - 0.5F) * 0.01F;
    update.emplace(name, Tensor::FromFloats(tensor.shape(), values));
  }
  return update;
}

std::string AttackOf(const StateDict& adapter, int index, Attack attack) {
  StateDict update = UpdateOf(adapter, index);
  auto& [name, tensor] = *update.begin();
  switch (attack) {
    case Attack::kNotSafetensors:
      return "this is no update " + std::to_string(index);
    case Attack::kNotFinite: {
      std::vector<float> values(static_cast<size_t>(tensor.numel()), 0.001F * static_cast<float>(index % 7));
      values.back() = std::numeric_limits<float>::quiet_NaN();
      tensor = Tensor::FromFloats(tensor.shape(), values);
      break;
    }
    case Attack::kWrongShape: {
      const std::vector<float> values(3, 0.5F + static_cast<float>(index));
      tensor = Tensor::FromFloats({3}, values);
      break;
    }
    case Attack::kForeignAssignment:
      break;
  }
  return SerializeSafetensors(update);
}

Status Unexpected(const std::string& what, const HttpResponse& response) {
  const auto refusal = protocol::ParseMessage<v1::Refusal>(response.body);
  return Internal(what + " was answered with status " + std::to_string(response.status) +
                  (refusal.ok() ? ": " + refusal->message() : std::string()));
}

asio::awaitable<Result<v1::TaskAssignment>> GetTask(protocol::HttpClient& client) {
  v1::CheckinRequest message;
  message.set_protocol_version(protocol::kProtocolVersion);
  message.set_software_version("crowd");
  message.add_local_tasks("lora_sft");
  for (;;) {
    HttpRequest request("POST", "/v1/checkin", message.SerializeAsString());
    request.answer_timeout = Seconds(600);
    const Result<HttpResponse> answer = co_await client.Send(std::move(request));
    if (!answer.ok()) co_return answer.status();
    if (answer->status != 200) co_return Unexpected("a check-in", *answer);
    Result<v1::CheckinResponse> parsed = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
    if (!parsed.ok()) co_return parsed.status();
    if (parsed->has_assignment()) co_return std::move(*parsed->mutable_assignment());
  }
}

asio::awaitable<Result<HttpResponse>> Upload(protocol::HttpClient& client, const std::string& assignment,
                                             const std::string& bytes) {
  HttpRequest upload("POST", "/v1/uploads", bytes);
  upload.content_type = "application/octet-stream";
  upload.headers.emplace_back("Heddle-Assignment", assignment);
  upload.headers.emplace_back("Heddle-Digest", Sha256(bytes).ToHex());
  upload.headers.emplace_back("Upload-Length", std::to_string(bytes.size()));
  Result<HttpResponse> answer = co_await client.Send(std::move(upload));
  co_return answer;
}

asio::awaitable<Result<HttpResponse>> Report(protocol::HttpClient& client, const std::string& assignment,
                                             const std::string& bytes) {
  v1::ReportRequest report;
  report.set_assignment_id(assignment);
  report.set_outcome(v1::TASK_OUTCOME_COMPLETED);
  *report.mutable_update() = protocol::MakeBlobRef(Sha256(bytes), bytes.size(), "update.safetensors");
  report.mutable_metrics()->set_num_examples(1);
  report.mutable_metrics()->set_steps(1);
  HttpRequest request("POST", "/v1/reports", report.SerializeAsString());
  Result<HttpResponse> answer = co_await client.Send(std::move(request));
  co_return answer;
}

// Uploads and reports; the verdict.
asio::awaitable<Result<v1::ReportVerdict>> Deliver(protocol::HttpClient& client, const std::string& assignment,
                                                   const std::string& bytes) {
  const Result<HttpResponse> uploaded = co_await Upload(client, assignment, bytes);
  if (!uploaded.ok()) co_return uploaded.status();
  if (uploaded->status / 100 != 2) co_return Unexpected("an upload", *uploaded);
  const Result<HttpResponse> answer = co_await Report(client, assignment, bytes);
  if (!answer.ok()) co_return answer.status();
  if (answer->status != 200) co_return Unexpected("a report", *answer);
  const auto verdict = protocol::ParseMessage<v1::ReportResponse>(answer->body);
  if (!verdict.ok()) co_return verdict.status();
  co_return verdict->verdict();
}

// Takes somebody else's assignment for its own: neither upload nor report may get through.
asio::awaitable<Status> Steal(protocol::HttpClient& client, Crowd& crowd, const std::string& bytes) {
  std::string foreign;
  while (foreign.empty()) {
    {
      const std::lock_guard lock(crowd.mutex);
      foreign = crowd.honest_assignment;
    }
    if (!foreign.empty()) break;
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(10));
    co_await timer.async_wait(asio::use_awaitable);
  }
  const Result<HttpResponse> uploaded = co_await Upload(client, foreign, bytes);
  if (!uploaded.ok()) co_return uploaded.status();
  if (uploaded->status != 403) co_return Unexpected("an upload for another device's assignment", *uploaded);
  const Result<HttpResponse> reported = co_await Report(client, foreign, bytes);
  if (!reported.ok()) co_return reported.status();
  if (reported->status / 100 != 4) co_return Unexpected("a report on another device's assignment", *reported);
  ++crowd.refused;
  co_return OkStatus();
}

asio::awaitable<Status> Take(protocol::HttpClient& client, Crowd& crowd, int index) {
  const Role role = RoleOf(crowd.options, index);
  const Result<v1::TaskAssignment> task = co_await GetTask(client);
  if (!task.ok()) co_return task.status();
  const std::string id = task->assignment_id();
  if (role == Role::kVanish) {
    client.Close();
    ++crowd.vanished;
    co_return OkStatus();
  }
  if (role == Role::kAttack) {
    const auto attack = static_cast<Attack>(index % kAttacks);
    const std::string bytes = AttackOf(crowd.adapter, index, attack);
    if (attack == Attack::kForeignAssignment) co_return co_await Steal(client, crowd, bytes);
    const Result<v1::ReportVerdict> verdict = co_await Deliver(client, id, bytes);
    if (!verdict.ok()) co_return verdict.status();
    if (*verdict != v1::REPORT_VERDICT_INVALID) co_return Internal("an attack was not found invalid");
    ++crowd.refused;
    co_return OkStatus();
  }
  const std::string bytes = SerializeSafetensors(UpdateOf(crowd.adapter, index));
  if (role == Role::kLate) {
    const int64_t left_us = task->deadline_unix_us() - ToUnixMicros(SystemClock().Now());
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::microseconds(left_us + 100'000));
    co_await timer.async_wait(asio::use_awaitable);
  } else {
    const std::lock_guard lock(crowd.mutex);
    crowd.honest_assignment = id;
  }
  const Result<v1::ReportVerdict> verdict = co_await Deliver(client, id, bytes);
  if (!verdict.ok()) co_return verdict.status();
  if (*verdict == v1::REPORT_VERDICT_ACCEPTED && role == Role::kHonest) {
    const std::lock_guard lock(crowd.mutex);
    crowd.accepted.push_back(index);
    co_return OkStatus();
  }
  // Also an honest device may be late, on a machine that is too slow for all of them.
  if (*verdict != v1::REPORT_VERDICT_LATE) co_return Internal("a device got verdict " + std::to_string(*verdict));
  ++crowd.late;
  co_return OkStatus();
}

Result<Sha256Digest> ExpectedModel(const coordinator::Recipe& recipe, const Crowd& crowd) {
  HEDDLE_ASSIGN_OR_RETURN(const auto sum,
                          aggregation::MakeAggregator(recipe.strategy, crowd.adapter, recipe.aggregator));
  for (const int index : crowd.accepted) {
    HEDDLE_RETURN_IF_ERROR(sum->Fold(UpdateOf(crowd.adapter, index), {.num_examples = 1}));
  }
  HEDDLE_ASSIGN_OR_RETURN(const aggregation::RoundModel made, std::move(*sum).Finish());
  return Sha256(SerializeSafetensors(made.model));
}

}  // namespace

Result<CrowdRound> RunCrowdRound(const Context& context, const fs::path& folder, const CrowdOptions& options) {
  LightDevices devices(context, folder, options.devices);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  const auto honest = [&] {
    int count = 0;
    for (int i = 0; i < options.devices; ++i) count += RoleOf(options, i) == Role::kHonest;
    return count;
  }();
  const std::map<std::string, std::string> settings = {
      {"strategy.min_reports", std::to_string(std::max(1, honest / 2))},
      {"strategy.report_deadline_s", std::to_string(options.deadline_s)},
      {"strategy.selection_timeout_s", "600"}};
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf1KiB(), 1, settings));
  HEDDLE_ASSIGN_OR_RETURN(const coordinator::Recipe recipe, coordinator::Recipe::Load(devices.recipe(), settings));
  HEDDLE_ASSIGN_OR_RETURN(coordinator::RunMaterial material, coordinator::PrepareRun(recipe));
  Crowd crowd;
  crowd.options = options;
  crowd.adapter = std::move(material.initial_adapter);
  HEDDLE_RETURN_IF_ERROR(
      devices.Each([&](int index, protocol::HttpClient& client) { return Take(client, crowd, index); }));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<json::object> history, HistoryOfTheRun(devices));
  if (history.size() != 1) return Internal("history.jsonl has " + std::to_string(history.size()) + " lines, not one");
  const json::object& line = history.front();
  HEDDLE_RETURN_IF_ERROR(devices.Stop());

  CrowdRound round;
  round.accepted = static_cast<int>(crowd.accepted.size());
  round.refused = crowd.refused;
  round.late = crowd.late;
  round.vanished = crowd.vanished;
  round.seconds = line.at("seconds").to_number<double>() - line.at("seconds_selecting").to_number<double>();
  if (line.at("outcome") != "committed") return Internal("the round was abandoned: " + json::serialize(line));
  if (line.at("num_accepted").to_number<int>() != round.accepted) {
    return Internal("the coordinator counts " + json::serialize(line.at("num_accepted")) + " updates, the devices " +
                    std::to_string(round.accepted));
  }
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest expected, ExpectedModel(recipe, crowd));
  if (json::value_to<std::string>(line.at("model_sha256")) != expected.ToHex()) {
    return DataLoss("the round committed " + json::serialize(line.at("model_sha256")) + ", not " + expected.ToHex());
  }
  return round;
}

namespace {

Result<Findings> Crowded(const Context& context) {
  const CrowdOptions options;
  HEDDLE_RETURN_IF_ERROR(AllowDescriptors(static_cast<unsigned>(options.devices) + 200));
  HEDDLE_ASSIGN_OR_RETURN(const CrowdRound round, RunCrowdRound(context, context.work / "crowd", options));
  Findings found;
  found.values["round-1000-devices"] = {round.seconds / options.deadline_s,
                                        "right hash of " + std::to_string(round.accepted) + " updates; " +
                                            std::to_string(round.refused) + " refused, " + std::to_string(round.late) +
                                            " late, " + std::to_string(round.vanished) + " vanished"};
  return found;
}

}  // namespace

std::vector<Measurement> CrowdMeasurements() {
  return {{"hostile",
           {{"round-1000-devices", "round of 1 000, 45 % hostile: time to its commit", "of deadline", 1.05, false}},
           Crowded}};
}

}  // namespace heddle::bench
