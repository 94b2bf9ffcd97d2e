// Names of things, each its own type so that one cannot be passed for another. Values; ordered; hashable.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>

namespace heddle {

template <typename Tag>
class StrongId {
 public:
  StrongId() = default;
  explicit StrongId(std::string value) : value_(std::move(value)) {}
  const std::string& value() const { return value_; }
  bool empty() const { return value_.empty(); }
  friend auto operator<=>(const StrongId&, const StrongId&) = default;
  friend std::ostream& operator<<(std::ostream& out, const StrongId& id) { return out << id.value_; }

 private:
  std::string value_;
};

// The name a device was enrolled under: the common name of its certificate. [a-z0-9][a-z0-9._-]{0,62}
using DeviceId = StrongId<struct DeviceTag>;
// One federated run: "<recipe name>-<8 hex digits>".
using RunId = StrongId<struct RunTag>;
// One device's task in one attempt of one round: 32 hex digits, derived from the run's seed.
using AssignmentId = StrongId<struct AssignmentTag>;

// True when the text may be a device's name (the rule above).
bool IsValidDeviceName(const std::string& name);

}  // namespace heddle

template <typename Tag>
struct std::hash<heddle::StrongId<Tag>> {
  size_t operator()(const heddle::StrongId<Tag>& id) const noexcept { return std::hash<std::string>()(id.value()); }
};
