// Any bytes as the coordinator's database: refused with a sentence, or opened and read from end to end; damage found
// on the way is a typed error. A file that is refused as another program's is left as it was.
#include <set>

#include "coordinator/store/store.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::coordinator;

namespace {

// kInternal and kUnknown would be: we do not know what this is.
void RequireTyped(const Status& status) {
  if (status.ok()) return;
  static const std::set<Code> kExpected = {Code::kDataLoss,          Code::kInvalidArgument, Code::kFailedPrecondition,
                                           Code::kNotFound,          Code::kAlreadyExists,   Code::kPermissionDenied,
                                           Code::kResourceExhausted, Code::kUnavailable,     Code::kUnauthenticated};
  Require(kExpected.contains(status.code()), "an error of a damaged database has its kind", status.ToString());
  Require(!status.message().empty(), "and says what is wrong");
}

void ReadAll(Store& store) {
  const auto runs = store.ListRuns();
  RequireTyped(runs.status());
  std::set<RunId> ids = {RunId("demo-01234567")};
  if (runs.ok()) {
    for (const RunRecord& run : *runs) ids.insert(run.id);
  }
  for (const RunId& id : ids) {
    RequireTyped(store.GetRun(id).status());
    RequireTyped(store.LoadSnapshot(id).status());
    const auto rounds = store.ListRounds(id);
    RequireTyped(rounds.status());
    if (!rounds.ok()) continue;
    for (const RoundRecord& round : *rounds) {
      const auto assignments = store.ListAssignments(id, round.round, round.attempt);
      RequireTyped(assignments.status());
      if (!assignments.ok()) continue;
      for (const AssignmentRecord& assignment : *assignments)
        RequireTyped(store.FindAssignment(assignment.id).status());
    }
  }
  RequireTyped(store.ActiveRun().status());
  RequireTyped(store.ReferencedBlobs().status());
  RequireTyped(store.ListDevices().status());
  RequireTyped(store.GetDevice(DeviceId("phone-1")).status());
  RequireTyped(store.GetMeta("opened").status());
  const Time now = FromUnixMicros(1'700'000'000'000'000);
  RequireTyped(store.CheckToken(Sha256(std::string_view("token")), now).status());
  // And what writes.
  RequireTyped(store.CreateToken(Sha256(std::string_view("another")), DeviceId("phone-2"), now));
  RequireTyped(store.DeleteExpiredTokens(now + Seconds(1)).status());
  RequireTyped(store.SetMeta("key", "value"));
  RequireTyped(store.RevokeDevice(DeviceId("phone-1"), now));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > (256 << 10)) return 0;
  static const fuzz::Scratch scratch;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::filesystem::path file = scratch.Write("coordinator.db", bytes);
  for (const char* beside : {"coordinator.db-wal", "coordinator.db-shm", "coordinator.db-journal"}) {
    std::error_code ignored;
    std::filesystem::remove(scratch / beside, ignored);
  }
  StoreOptions options;
  options.busy_timeout = Seconds(0);
  {
    const auto store = Store::Open(file, options);
    RequireTyped(store.status());
    if (store.ok()) {
      ReadAll(**store);
      return 0;
    }
    if (store.status().code() != Code::kInvalidArgument) return 0;
  }
  Require(fuzz::ReadBack(file) == bytes, "another program's file is left as it was");
  return 0;
}
