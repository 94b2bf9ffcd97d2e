// The daemon's side of the worker process.
#include "client/daemon/worker_process.h"

#include <gmock/gmock.h>
#include <signal.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "client/worker/train_plan.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using protocol::TempDir;
using testing::HasSubstr;

class WorkerProcessTest : public testing::Test {
 protected:
  WorkerProcessTest() {
    ::signal(SIGPIPE, SIG_IGN);
    options_.argv = {(fs::path(HEDDLE_BINARY_DIR) / "bin" / "fake_worker").string()};
    options_.keep_alive = Seconds(100);
    fs::create_directories(temp_.path() / "base");
    fs::create_directories(temp_.path() / "adapter");
    std::ofstream(temp_.path() / "base" / "config.json") << "{}";
    std::ofstream(temp_.path() / "adapter" / "adapter_model.safetensors") << "a";
  }
  WorkerProcess& Worker() {
    if (!worker_) worker_.emplace(io_.get_executor(), options_);
    return *worker_;
  }
  v1::WorkerRun RunOf(const std::string& mode) {
    std::ofstream(temp_.path() / "data", std::ios::trunc) << mode;
    v1::WorkerRun run;
    run.set_local_task("sum");
    *run.mutable_train() = ToTrainPlan(TrainSettings{.local_steps = 2});
    run.set_base_model_dir((temp_.path() / "base").string());
    run.set_adapter_dir((temp_.path() / "adapter").string());
    run.set_data_path((temp_.path() / "data").string());
    run.set_update_path((temp_.path() / "update").string());
    return run;
  }
  // Runs the loop until the call has ended.
  WorkerResult Run(const std::string& mode, std::function<void(const v1::WorkerProgress&)> progress = {}) {
    std::optional<WorkerResult> result;
    const auto body = [&]() -> asio::awaitable<void> { result.emplace(co_await Worker().Run(RunOf(mode), progress)); };
    asio::co_spawn(io_, body(), asio::detached);
    io_.restart();
    while (!result && io_.run_one() > 0) {
    }
    return result.value_or(WorkerResult());
  }
  Result<std::vector<std::string>> Probe() {
    std::optional<Result<std::vector<std::string>>> result;
    const auto body = [&]() -> asio::awaitable<void> { result.emplace(co_await Worker().Probe()); };
    asio::co_spawn(io_, body(), asio::detached);
    io_.restart();
    while (!result && io_.run_one() > 0) {
    }
    return *result;
  }

  TempDir temp_;
  asio::io_context io_;
  WorkerOptions options_;
  std::optional<WorkerProcess> worker_;
};

TEST_F(WorkerProcessTest, ProbeTellsTheTasks) {
  const auto names = Probe();
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_EQ(*names, std::vector<std::string>{"sum"});
  EXPECT_TRUE(Worker().running());
}

TEST_F(WorkerProcessTest, MissingProgramIsNotFound) {
  options_.argv = {"/nonexistent/worker"};
  EXPECT_EQ(Probe().status().code(), Code::kNotFound);
  EXPECT_FALSE(Worker().running());
}

TEST_F(WorkerProcessTest, ProgramThatIsNoWorkerIsFoundOut) {
  options_.argv.emplace_back("rubbish");
  EXPECT_EQ(Probe().status().code(), Code::kDataLoss);
  options_.argv = {"/bin/sh", "-c", "exit 3"};
  worker_.reset();
  EXPECT_THAT(Probe().status().message(), HasSubstr("status 3"));
}

TEST_F(WorkerProcessTest, ProgramThatNeverGetsReadyIsKilled) {
  options_.argv.emplace_back("silent");
  options_.start_limit = Seconds(0.05);
  EXPECT_EQ(Probe().status().code(), Code::kUnavailable);
  EXPECT_FALSE(Worker().running());
}

TEST_F(WorkerProcessTest, TaskRunsWithProgress) {
  std::vector<uint32_t> steps;
  const WorkerResult result = Run("ok", [&](const v1::WorkerProgress& p) { steps.push_back(p.step()); });
  EXPECT_EQ(result.outcome, WorkerResult::Outcome::kCompleted) << result.message;
  EXPECT_EQ(steps, (std::vector<uint32_t>{1, 2}));
  EXPECT_TRUE(fs::exists(temp_.path() / "update"));
}

TEST_F(WorkerProcessTest, WorkerThatDiedIsStartedAgain) {
  EXPECT_EQ(Run("kill").outcome, WorkerResult::Outcome::kInterrupted);
  EXPECT_FALSE(Worker().running());
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kCompleted);
  const WorkerResult crashed = Run("abort");
  EXPECT_EQ(crashed.outcome, WorkerResult::Outcome::kFailed);
  EXPECT_THAT(crashed.message, HasSubstr("signal 6"));
}

TEST_F(WorkerProcessTest, CancelStopsTheTaskAndKeepsTheWorker) {
  const WorkerResult result = Run("slow", [&](const v1::WorkerProgress&) { Worker().Cancel(); });
  EXPECT_EQ(result.outcome, WorkerResult::Outcome::kInterrupted) << result.message;
  EXPECT_TRUE(Worker().running());
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kCompleted);
}

TEST_F(WorkerProcessTest, CancelBeforeTheWorkerIsReadyEndsIt) {
  options_.argv.emplace_back("silent");
  asio::post(io_, [&] { asio::post(io_, [&] { Worker().Cancel(); }); });
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kInterrupted);
}

TEST_F(WorkerProcessTest, WorkerThatDoesNotListenIsKilled) {
  options_.cancel_limit = Seconds(0.05);
  const WorkerResult result = Run("deaf", [&](const v1::WorkerProgress&) { Worker().Cancel(); });
  EXPECT_EQ(result.outcome, WorkerResult::Outcome::kInterrupted);
  EXPECT_FALSE(Worker().running());
}

TEST_F(WorkerProcessTest, WorkerEndsAfterItsRest) {
  options_.keep_alive = Duration(0);
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kCompleted);
  Worker().Rest();
  io_.restart();
  io_.run();  // until nothing of the worker is left
  EXPECT_FALSE(Worker().running());
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kCompleted);
}

TEST_F(WorkerProcessTest, WorkIsNotCutByTheRestOfBefore) {
  options_.keep_alive = Seconds(0.01);
  EXPECT_EQ(Run("ok").outcome, WorkerResult::Outcome::kCompleted);
  Worker().Rest();
  int seen = 0;
  const auto cancel_later = [&](const v1::WorkerProgress&) {
    if (++seen == 2) Worker().Cancel();  // some 200 ms on
  };
  EXPECT_EQ(Run("slow", cancel_later).message, "stopped");
}

}  // namespace
}  // namespace heddle::client
