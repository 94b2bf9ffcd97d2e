// What clipping and noise of updates (update_privacy.h) guarantee, in zero-concentrated differential privacy (Bun and
// Steinke, 1605.02065) and as (epsilon, delta).
//
// Who is protected is a device, with all of its data (local differential privacy: against whoever sees the reports, the
// coordinator among them). A report is its clipped update, of an L2 norm of at most C, plus N(0, (z C)^2). Two readings
// of "neighbours", which differ by a factor of four and must not be mixed up:
//
//   kAnyData   any two data sets of the device: updates differ by up to 2 C, rho = (2 C)^2 / (2 (z C)^2) = 2 / z^2
//   kZeros     the device's update, or zeros in its place: they differ by up to C, rho = 1 / (2 z^2)
//
// rho adds up over reports, also where each depends on what became of the earlier ones.
//
// Not covered: what is reported beside the update (docs/threat-model.md). Pure functions.
#pragma once

#include <cstdint>
#include <string>

namespace heddle::privacy {

inline constexpr double kDefaultDelta = 1e-5;

enum class Neighbours : uint8_t { kAnyData, kZeros };

// rho of one report. noise_multiplier > 0.
double RhoOfReport(double noise_multiplier, Neighbours neighbours);

// The smallest epsilon for which rho-zCDP is known to imply (epsilon, delta)-differential privacy (Canonne, Kamath,
// Steinke, 2004.00010: their conversion, solved for epsilon):
//
//   inf over a > 1 of   a rho + log(1 - 1/a) - log(a delta) / (a - 1)
//
// Found by search; every a gives a bound that holds, so the search can only be too careful. rho >= 0, 0 < delta < 1.
double EpsilonOf(double rho, double delta);

struct Budget {
  double rho_report = 0, rho_run = 0, epsilon_report = 0, epsilon_run = 0;
};

// Of a device that takes part in as many rounds as it can.
struct RunGuarantee {
  uint64_t reports = 0;
  double delta = 0;
  Budget any_data, zeros;
  std::string ToText() const;  // for people, one line
};

// noise_multiplier > 0, 0 < delta < 1.
RunGuarantee GuaranteeOf(double noise_multiplier, uint64_t reports, double delta);

}  // namespace heddle::privacy
