// A coordinator for tests of the client: enrols, hands out the tasks it is told to, serves blobs with Range, takes
// resumable uploads and reports, and remembers all of it. No engine, no database.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "protocol/refusal.h"
#include "protocol/validate.h"
#include "tests/unit/protocol/transport_fixture.h"

namespace heddle::client {

class FakeCoordinator {
 public:
  explicit FakeCoordinator(bool tls = true);
  ~FakeCoordinator();

  uint16_t port() const { return server_->port(); }
  const protocol::Pki& pki() const { return pki_; }
  // A one-time token as `heddle device token` prints it.
  std::string IssueToken(const std::string& device);

  // A task on `sum` with a base model and an adapter of these sizes and an update of batch_size * 4096 bytes or so.
  v1::TaskAssignment MakeAssignment(int number, size_t model_bytes = 1000, uint32_t batch_size = 1);
  // The same with a base model of these files, and their trees of hashes among the blobs; a task with layers fetches a
  // part of it.
  v1::TaskAssignment MakePartAssignment(int number, const std::map<std::string, std::string>& base,
                                        const std::map<std::string, std::string>& trees,
                                        const std::vector<uint32_t>& layers);
  // Adds a ledger to the task's adapter and, where there are some, the weights that it stands for to the blobs.
  void AddLedger(const std::string& ledger, const std::optional<std::string>& weights, v1::TaskAssignment* assignment);
  void Offer(const v1::TaskAssignment& assignment);
  // The next requests whose path begins so are refused, each with one of the refusals.
  void RefuseNext(const std::string& path, v1::Refusal refusal);
  void StopRefusing();
  void SetVerdict(v1::ReportVerdict verdict) { verdict_ = verdict; }
  // The blob's bytes as they are sent, not as they should be.
  void Corrupt(const v1::BlobRef& ref, std::string bytes);

  // What happened.
  std::vector<std::string> requests() const;  // "GET /v1/blobs/... bytes=5-" and so on
  size_t CountRequests(const std::string& part) const;
  std::vector<v1::CheckinRequest> checkins() const;
  std::vector<v1::ReportRequest> reports() const;
  std::optional<std::string> Upload(const std::string& assignment_id) const;  // when it is complete
  std::optional<std::string> InlineUpdate(const std::string& assignment_id) const;
  std::set<std::string> devices() const;  // that spoke

 private:
  struct UploadState {
    std::string id, digest, bytes;
    uint64_t length = 0;
  };

  protocol::Awaitable<void> Handle(protocol::Exchange& exchange);
  protocol::Awaitable<void> Refuse(protocol::Exchange& exchange, v1::Refusal refusal);
  protocol::Awaitable<void> Enroll(protocol::Exchange& exchange);
  protocol::Awaitable<void> Checkin(protocol::Exchange& exchange);
  protocol::Awaitable<void> Blob(protocol::Exchange& exchange);
  protocol::Awaitable<void> BeginUpload(protocol::Exchange& exchange);
  protocol::Awaitable<void> ContinueUpload(protocol::Exchange& exchange);
  protocol::Awaitable<void> TakeBody(protocol::Exchange& exchange, UploadState& upload, unsigned status);
  protocol::Awaitable<void> Report(protocol::Exchange& exchange);
  v1::BlobRef AddBlob(const std::string& bytes, const std::string& name);

  protocol::Pki pki_;
  protocol::TempDir temp_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> tokens_;  // secret -> device
  std::deque<v1::TaskAssignment> offers_;
  std::map<std::string, std::deque<v1::Refusal>> refusals_;
  std::map<std::string, std::string> blobs_;           // hex digits -> bytes
  std::map<std::string, UploadState> uploads_;         // by assignment
  std::map<std::string, std::string> inline_updates_;  // by assignment
  std::vector<std::string> requests_;
  std::vector<v1::CheckinRequest> checkins_;
  std::vector<v1::ReportRequest> reports_;
  std::set<std::string> devices_;
  std::atomic<v1::ReportVerdict> verdict_ = v1::REPORT_VERDICT_ACCEPTED;
  bool tls_;
  protocol::Threads threads_;
  std::unique_ptr<protocol::Server> server_;
};

}  // namespace heddle::client
