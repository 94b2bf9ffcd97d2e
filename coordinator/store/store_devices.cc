#include "coordinator/store/sqlite_store.h"

namespace heddle::coordinator {
namespace {

Status BadToken() {
  return Unauthenticated(
      "the enrolment token is unknown, used or expired; ask for a new one from `heddle device token`");
}

DeviceRecord ReadDevice(Query& query) {
  DeviceRecord device;
  device.device = DeviceId(query.Text(0));
  device.serial = query.Text(1);
  device.not_after = query.TimeAt(2);
  device.enrolled_at = query.TimeAt(3);
  if (!query.IsNull(4)) device.revoked_at = query.TimeAt(4);
  return device;
}

Status NoDevice(const DeviceId& device) {
  return NotFound("no device " + device.value() + " is enrolled; see `heddle device list`");
}

}  // namespace

// ---- tokens ----

Status SqliteStore::CreateToken(const Sha256Digest& token_hash, const DeviceId& device, Time expires_at) {
  if (!IsValidDeviceName(device.value())) {
    return InvalidArgument("\"" + device.value() +
                           "\" is not a device's name: 1 to 63 of a-z 0-9 . _ - and first a letter or digit");
  }
  return InTransaction([&]() -> Status {
    {
      Query query = Prepared("SELECT 1 FROM tokens WHERE hash = ?");
      query.Bind(token_hash);
      if (query.Next()) return AlreadyExists("this enrolment token exists already");
    }
    Prepared("INSERT INTO tokens (hash, device, expires_at) VALUES (?, ?, ?)")
        .Bind(token_hash)
        .Bind(device.value())
        .Bind(expires_at)
        .Execute();
    return OkStatus();
  });
}

Result<DeviceId> SqliteStore::UsableToken(const Sha256Digest& token_hash, Time now) {
  Query query = Prepared("SELECT device, expires_at, used_at FROM tokens WHERE hash = ?");
  query.Bind(token_hash);
  if (!query.Next()) return BadToken();
  if (!query.IsNull(2) && !HEDDLE_PLANTED(kRedeemTwice)) return BadToken();
  if (query.TimeAt(1) <= now && !HEDDLE_PLANTED(kIgnoreExpiry)) return BadToken();
  return DeviceId(query.Text(0));
}

Result<DeviceId> SqliteStore::CheckToken(const Sha256Digest& token_hash, Time now) {
  return Guarded([&]() { return UsableToken(token_hash, now); });
}

Status SqliteStore::RedeemToken(const Sha256Digest& token_hash, Time now, const DeviceRecord& device) {
  return InTransaction([&]() -> Status {
    HEDDLE_ASSIGN_OR_RETURN(DeviceId name, UsableToken(token_hash, now));
    if (name != device.device) {
      return InvalidArgument("the token enrols " + name.value() + ", not " + device.device.value());
    }
    Prepared("UPDATE tokens SET used_at = ? WHERE hash = ?").Bind(now).Bind(token_hash).Execute();
    Prepared(
        "INSERT INTO devices (name, serial, not_after, enrolled_at, revoked_at) VALUES (?, ?, ?, ?, NULL) "
        "ON CONFLICT (name) DO UPDATE SET serial = excluded.serial, not_after = excluded.not_after, "
        "enrolled_at = excluded.enrolled_at, revoked_at = NULL")
        .Bind(name.value())
        .Bind(device.serial)
        .Bind(device.not_after)
        .Bind(device.enrolled_at)
        .Execute();
    return OkStatus();
  });
}

Result<size_t> SqliteStore::DeleteExpiredTokens(Time before) {
  return InTransaction([&]() -> Result<size_t> {
    return static_cast<size_t>(Prepared("DELETE FROM tokens WHERE expires_at < ?").Bind(before).Execute());
  });
}

// ---- devices ----

Result<std::vector<DeviceRecord>> SqliteStore::ListDevices() {
  return Guarded([&]() -> Result<std::vector<DeviceRecord>> {
    std::vector<DeviceRecord> devices;
    Query query = Prepared("SELECT name, serial, not_after, enrolled_at, revoked_at FROM devices ORDER BY name");
    while (query.Next()) devices.push_back(ReadDevice(query));
    return devices;
  });
}

Result<std::optional<DeviceRecord>> SqliteStore::GetDevice(const DeviceId& device) {
  return Guarded([&]() -> Result<std::optional<DeviceRecord>> {
    Query query = Prepared("SELECT name, serial, not_after, enrolled_at, revoked_at FROM devices WHERE name = ?");
    query.Bind(device.value());
    if (!query.Next()) return std::optional<DeviceRecord>();
    return std::optional<DeviceRecord>(ReadDevice(query));
  });
}

Status SqliteStore::RevokeDevice(const DeviceId& device, Time now) {
  return InTransaction([&]() -> Status {
    int changed = Prepared("UPDATE devices SET revoked_at = coalesce(revoked_at, ?) WHERE name = ?")
                      .Bind(now)
                      .Bind(device.value())
                      .Execute();
    return changed == 1 ? OkStatus() : NoDevice(device);
  });
}

Status SqliteStore::RenewDevice(const DeviceId& device, const std::string& serial, Time not_after) {
  return InTransaction([&]() -> Status {
    int changed = Prepared("UPDATE devices SET serial = ?, not_after = ? WHERE name = ? AND revoked_at IS NULL")
                      .Bind(serial)
                      .Bind(not_after)
                      .Bind(device.value())
                      .Execute();
    if (changed == 1) return OkStatus();
    Query query = Prepared("SELECT 1 FROM devices WHERE name = ?");
    query.Bind(device.value());
    if (!query.Next()) return NoDevice(device);
    return PermissionDenied("device " + device.value() + " was revoked; enrol it again with a new token");
  });
}

}  // namespace heddle::coordinator
