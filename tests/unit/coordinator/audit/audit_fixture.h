// What the tests of the audit log share: events, a log in a temporary folder, and its lines as the files hold them.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "coordinator/audit/audit_check.h"
#include "coordinator/audit/audit_head.h"
#include "coordinator/audit/audit_log.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator::testing {

inline AuditEvent AnEvent(const std::string& object, AuditKind kind = AuditKind::kTokenMade) {
  AuditEvent event;
  event.kind = kind;
  event.actor = "admin";
  event.from = "192.0.2.7";
  event.object = object;
  event.outcome = "done";
  event.detail = "because";
  return event;
}

class StillClock final : public Clock {
 public:
  Time Now() const override { return FromUnixMicros(1'764'000'000'000'000); }
};

class AuditTest : public ::testing::Test {
 protected:
  std::filesystem::path folder() const { return temp_.path() / "audit"; }
  AuditOptions Options(FileOps* files = nullptr) {
    AuditOptions options;
    options.folder = folder();
    options.max_file_bytes = 600;  // two lines
    options.clock = &clock_;
    options.files = files;
    return options;
  }
  std::unique_ptr<AuditLog> Open(FileOps* files = nullptr) {
    auto log = AuditLog::Open(Options(files));
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }
  // A log of `lines` lines with the objects "1", "2", …, closed.
  void Fill(int lines) {
    auto log = Open();
    for (int i = 1; i <= lines; ++i) ASSERT_TRUE(log->Append(AnEvent(std::to_string(i))).ok());
  }
  AuditReport Check(const std::optional<AuditAnchor>& expected = {}) const {
    auto report = CheckAudit(folder(), expected);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : AuditReport{};
  }
  void ExpectWhole(uint64_t lines) const {
    const AuditReport report = Check();
    EXPECT_FALSE(report.fault) << report.fault->file << ":" << report.fault->line << ": " << report.fault->what;
    EXPECT_EQ(report.lines, lines);
  }
  void ExpectFault(const std::string& file, uint64_t line, const std::string& what = "") const {
    const AuditReport report = Check();
    ASSERT_TRUE(report.fault);
    EXPECT_EQ(report.fault->file + ":" + std::to_string(report.fault->line), file + ":" + std::to_string(line));
    EXPECT_NE(report.fault->what.find(what), std::string::npos) << report.fault->what;
  }
  std::vector<std::filesystem::path> Files() const { return *ListAuditFiles(folder()); }
  static std::vector<std::string> LinesOf(const std::filesystem::path& file) {
    std::ifstream in(file);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  // Objects of all lines that are no repairs, in order.
  std::vector<std::string> Objects() const {
    std::vector<std::string> objects;
    for (const auto& file : Files()) {
      for (const std::string& line : LinesOf(file)) {
        const auto record = ParseRecord(line);
        if (record.ok() && record->event.kind != AuditKind::kRepaired) objects.push_back(record->event.object);
      }
    }
    return objects;
  }
  static void Write(const std::filesystem::path& file, const std::string& content) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
  }
  static void WriteLines(const std::filesystem::path& file, const std::vector<std::string>& lines) {
    std::string content;
    for (const std::string& line : lines) content += line + "\n";
    Write(file, content);
  }

  TempFolder temp_;
  StillClock clock_;
};

}  // namespace heddle::coordinator::testing
