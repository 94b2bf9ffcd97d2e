// Writes the fixture of the schema that this program knows: make_upgrade_fixture tests/data. Run it before a change of
// the schema, and commit what it writes; tests/data/README.md says what is in it.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "coordinator/store/migrations.h"
#include "tests/unit/coordinator/upgrade/small_run.h"

namespace heddle::coordinator::testing {
namespace {

namespace fs = std::filesystem;

void Check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// Two enrolled devices, of which one is revoked later, and a token that is not used.
void AddDevices(Store& store) {
  const Time now = FromUnixMicros(1'764'000'000'000'000), later = FromUnixMicros(4'102'444'800'000'000);
  for (const char* device : {SmallRun::kFirst, SmallRun::kSecond, "carl"}) {
    const Sha256Digest token = Sha256(std::string("token of ") + device);
    Check(store.CreateToken(token, DeviceId(device), later));
    DeviceRecord record;
    record.device = DeviceId(device);
    record.serial = std::string("0A") + std::to_string(device[0]);
    record.not_after = later;
    record.enrolled_at = now;
    Check(store.RedeemToken(token, now, record));
  }
  Check(store.RevokeDevice(DeviceId("carl"), now));
  Check(store.CreateToken(Sha256("token of dora"), DeviceId("dora"), later));
  Check(store.SetMeta("fixture", "kept"));
}

void Make(const fs::path& out) {
  const fs::path state = out / ("schema-" + std::to_string(Migrations().size()));
  const fs::path base = fs::temp_directory_path() / "heddle-upgrade-fixture";
  if (fs::exists(state)) throw std::runtime_error(state.string() + " is there already, and never changes");
  fs::remove_all(base);
  {
    SmallRun run(state);
    Check(run.Open());
    AddDevices(run.store());
    run.Create(base);
    run.Round();
    run.CheckinBoth();
    run.Report(SmallRun::kFirst);  // counted in round 2, whose other device has not reported yet
  }
  // The files of the base model are most of the bytes, and nobody fetches them in the tests.
  for (const fs::directory_entry& entry : fs::directory_iterator(base / "base")) {
    auto digest = Sha256File(entry.path());
    if (digest.ok()) fs::remove(state / "blobs" / digest->ToHex().substr(0, 2) / digest->ToHex());
  }
  fs::remove_all(base);
  for (const fs::directory_entry& entry : fs::directory_iterator(state / "blobs")) {
    if (fs::is_empty(entry)) fs::remove(entry);  // git keeps no empty folders
  }
}

}  // namespace
}  // namespace heddle::coordinator::testing

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_upgrade_fixture tests/data\n");
    return 2;
  }
  try {
    heddle::coordinator::testing::Make(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_upgrade_fixture: %s\n", error.what());
    return 1;
  }
}
