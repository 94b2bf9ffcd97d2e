// One enrolled or not yet enrolled device: the daemon in this process against a fake coordinator over TLS, with a
// worker process of arithmetic.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "client/daemon/daemon.h"
#include "client/daemon/enroll.h"
#include "tests/unit/client/fake_coordinator.h"

namespace heddle::client {

class OneDevice : public testing::Test {
 protected:
  // `build`: the folder that has bin/fake_worker (HEDDLE_BINARY_DIR, which only sources know).
  explicit OneDevice(const std::filesystem::path& build) {
    config_.host = "localhost";
    config_.port = coordinator_.port();
    config_.state_dir = temp_.path() / "state";
    config_.data_path = temp_.path() / "data.txt";
    config_.worker_binary = build / "bin" / "fake_worker";
    config_.backoff_base = Seconds(0.02);
    config_.backoff_max = Seconds(0.1);
    config_.nice = 0;
    config_.eligibility.interval = Seconds(0.02);
    options_.handle_signals = false;
    Mode("ok");
  }

  // What the worker does from now on (fake_worker.cc).
  void Mode(const std::string& mode) { ASSERT_TRUE(WriteFileAtomically(config_.data_path, mode).ok()); }
  void EnrollDevice() {
    const auto name = Enroll(config_, coordinator_.IssueToken("phone-1"));
    ASSERT_TRUE(name.ok()) << name.status();
    ASSERT_EQ(*name, "phone-1");
  }
  // Runs until so many tasks are reported; its end.
  Status RunTasks(uint64_t tasks) {
    options_.max_tasks = tasks;
    auto daemon = Daemon::Open(config_, options_);
    if (!daemon.ok()) return daemon.status();
    return (*daemon)->Run();
  }

  protocol::TempDir temp_;
  FakeCoordinator coordinator_;
  ClientConfig config_;
  DaemonOptions options_;
};

}  // namespace heddle::client
