// What the worlds of one thread have in common and would be slow to make anew for each: a folder in memory, small base
// models, the authority, and a database in which the devices are enrolled already.
//
// Life cycle: one a thread; worlds use it one after the other. Throws std::runtime_error when it cannot be made.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/engine/types.h"
#include "protocol/transport/tls.h"
#include "tests/simulation/system/torn_files.h"

namespace heddle::system_simulation {

inline constexpr size_t kDevices = 20;
inline constexpr const char* kDatabase = "coordinator.db";

class Stage {
 public:
  Stage();
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  std::filesystem::path state() const { return folder_ / "state"; }
  // Where the coordinator writes the folders of runs; and where they are while something stands in their place.
  std::filesystem::path runs() const { return state() / "runs"; }
  std::filesystem::path runs_aside() const { return state() / "runs-aside"; }
  // What a recipe's paths are relative to. The same text in every process, since a run's name, and with it all of a
  // world, depends on the paths in its recipe.
  static std::filesystem::path RecipeFolder();
  // The database of a coordinator that has never run anything, with device-00 to device-19 enrolled.
  const std::string& database() const { return database_; }
  const protocol::CertificateAuthority& authority() const { return *authority_; }
  // A certificate request, and the serial number of a certificate in PEM.
  const std::string& csr() const { return csr_; }
  static std::string SerialOf(const std::string& certificate_pem);
  TornFiles& files() { return files_; }
  // Distinguishes the stages of a process.
  uint64_t number() const { return number_; }

  // Removes what a world left.
  void Sweep();

  static DeviceId DeviceName(size_t index);
  static std::string Serial(size_t index);  // of the first certificate

  // The recipe with these settings of [strategy], for the base model of one layer or the one of kLayers (layers.h),
  // with these lines more in [train].
  static std::string Recipe(uint64_t seed, const std::vector<std::pair<std::string, std::string>>& strategy,
                            bool layers = false, const std::string& train = "");

 private:
  void MakeDatabase();

  uint64_t number_;
  std::filesystem::path folder_;
  std::string database_, csr_;
  std::optional<protocol::CertificateAuthority> authority_;
  TornFiles files_;
};

}  // namespace heddle::system_simulation
