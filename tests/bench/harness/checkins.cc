#include "checkins.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <mutex>
#include <sstream>

#include "common/subprocess.h"
#include "light_devices.h"
#include "protocol/limits.h"
#include "protocol/v1/device.pb.h"
#include "protocol/validate.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;
using protocol::HttpRequest;
using protocol::HttpResponse;

constexpr double kCheckinsPerSecond = 500;
// Each device connects once with a full handshake, which brings a session to resume, and then is measured so often.
constexpr int kRounds = 3, kUnmeasured = 1;
// Of the row of the bench; below, it fails.
constexpr double kLeastOfRate = 0.98, kLeastResumed = 0.99;

HttpRequest Checkin(std::string_view task) {
  v1::CheckinRequest message;
  message.set_protocol_version(protocol::kProtocolVersion);
  message.set_software_version("bench");
  message.add_local_tasks(std::string(task));
  HttpRequest request("POST", "/v1/checkin", message.SerializeAsString());
  request.answer_timeout = Seconds(600);
  return request;
}

struct Seen {
  std::mutex mutex;
  std::vector<double> seconds, late;
  Clock::time_point first = Clock::time_point::max(), last;  // beginning and answer, of the measured
  std::atomic<int> failed{0};
  std::string first_failure;

  void Fail(const std::string& why) {
    std::lock_guard lock(mutex);
    if (failed++ == 0) first_failure = why;
  }
};

// Every device in its own slot of the schedule, so that the rate is steady: connects anew, resuming its TLS session,
// and checks in for a task that the run does not need. It is answered at once and stays connected until its next turn.
asio::awaitable<Status> CheckInByTheClock(int index, protocol::HttpClient& client, int devices, Clock::time_point start,
                                          Seen& seen) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (int round = 0; round < kRounds; ++round) {
    const double at = (static_cast<double>(round) * devices + index) / kCheckinsPerSecond;
    const Clock::time_point turn =
        start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(at));
    timer.expires_at(turn);
    co_await timer.async_wait(asio::use_awaitable);
    client.Close();
    const Clock::time_point begin = Clock::now();
    const Result<HttpResponse> answer = co_await client.Send(Checkin("something_else"));
    const Clock::time_point end = Clock::now();
    if (!answer.ok()) {
      seen.Fail(answer.status().ToString());
      continue;
    }
    const auto parsed = protocol::ParseMessage<v1::CheckinResponse>(answer->body);
    if (answer->status != 200 || !parsed.ok() ||
        parsed->rejection().reason() != v1::REJECTION_REASON_UNSUPPORTED_TASK) {
      seen.Fail("a check-in was answered with status " + std::to_string(answer->status));
    } else if (round >= kUnmeasured) {
      std::lock_guard lock(seen.mutex);
      seen.seconds.push_back(std::chrono::duration<double>(end - begin).count());
      seen.late.push_back(std::chrono::duration<double>(begin - turn).count());
      seen.first = std::min(seen.first, begin);
      seen.last = std::max(seen.last, end);
    }
  }
  co_return OkStatus();
}

double MetricOf(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + " ")) return std::stod(line.substr(name.size() + 1));
  }
  return -1;
}

}  // namespace

Result<CheckinLoad> RunCheckinLoad(const Context& context, const std::filesystem::path& folder, int count) {
  HEDDLE_RETURN_IF_ERROR(AllowDescriptors(static_cast<unsigned>(count) + 600));
  LightDevices devices(context, folder, count);
  HEDDLE_RETURN_IF_ERROR(devices.StartCoordinator());
  // A run that waits for its devices, so that who cannot help it is told at once.
  HEDDLE_RETURN_IF_ERROR(devices.Submit(ShapeOf1KiB(), 1));
  Seen seen;
  const Clock::time_point start = Clock::now();
  HEDDLE_RETURN_IF_ERROR(devices.Each([&seen, start, count](int index, protocol::HttpClient& client) {
    return CheckInByTheClock(index, client, count, start, seen);
  }));
  HEDDLE_ASSIGN_OR_RETURN(const std::string metrics, devices.fleet().admin().GetText("/metrics"));
  HEDDLE_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory(devices.fleet().coordinator_process().pid()));
  if (seen.failed > 0) {
    return Internal(std::to_string(seen.failed) + " check-ins failed; the first: " + seen.first_failure);
  }
  std::sort(seen.seconds.begin(), seen.seconds.end());
  std::sort(seen.late.begin(), seen.late.end());
  const LightDevices::Handshakes handshakes = devices.handshakes();
  CheckinLoad load;
  load.connected = static_cast<int>(MetricOf(metrics, "heddle_clients_connected"));
  load.measured = static_cast<int>(seen.seconds.size());
  load.per_s = load.measured / std::chrono::duration<double>(seen.last - seen.first).count();
  // Of each device all but the first could be.
  const double later = static_cast<double>(handshakes.all) - count;
  load.resumed = later > 0 ? static_cast<double>(handshakes.resumed) / later : 0;
  load.late_p99_ms = 1000 * seen.late[seen.late.size() * 99 / 100];
  load.median_ms = 1000 * seen.seconds[seen.seconds.size() / 2];
  load.p99_ms = 1000 * seen.seconds[seen.seconds.size() * 99 / 100];
  load.memory_mb = static_cast<double>(memory.peak_rss_bytes) / 1e6;
  HEDDLE_RETURN_IF_ERROR(devices.Stop());
  return load;
}

namespace {

Result<Findings> Checkins(const Context& context) {
  constexpr int kDevices = 10'000;
  HEDDLE_ASSIGN_OR_RETURN(const CheckinLoad load, RunCheckinLoad(context, context.work / "checkins", kDevices));
  if (load.connected < kDevices) return Internal("only " + std::to_string(load.connected) + " devices were connected");
  // A time is none at this rate when the rate, or what makes a handshake cheap, was not there.
  if (load.per_s < kLeastOfRate * kCheckinsPerSecond) {
    return Internal("the devices came at " + std::to_string(load.per_s) + " check-ins a second, not at " +
                    std::to_string(kCheckinsPerSecond));
  }
  if (load.resumed < kLeastResumed) {
    return Internal("only " + std::to_string(100 * load.resumed) + " % of the TLS sessions were resumed");
  }
  Findings found;
  char note[224];
  std::snprintf(
      note, sizeof note,
      "p99 of %d at %.0f a second, %.1f %% of sessions resumed, none failed, begun at most %.1f ms late (p99); "
      "median %.1f ms; limits per address and of requests off",
      load.measured, load.per_s, 100 * load.resumed, load.late_p99_ms, load.median_ms);
  found.values["checkin-p99"] = {load.p99_ms, note};
  found.values["checkin-memory"] = {load.memory_mb, "peak resident, 10 000 connected at the end"};
  return found;
}

}  // namespace

std::vector<Measurement> CheckinMeasurements() {
  return {{"hostile",
           {{"checkin-p99", "10 000 devices connected, 500 check-ins a second, resumed: p99", "ms", 250, false},
            {"checkin-memory", "the coordinator's memory meanwhile", "MB", 1000, false}},
           Checkins}};
}

}  // namespace heddle::bench
