#include "tests/simulation/system/stage.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

#include "common/file.h"
#include "common/safetensors.h"
#include "coordinator/store/store.h"
#include "model/architectures/architectures.h"
#include "protocol/transport/openssl_util.h"
#include "tests/simulation/coordinator/memory_disk.h"
#include "tests/simulation/system/layers.h"
#include "tests/unit/model/tiny_model.h"

namespace heddle::system_simulation {

namespace fs = std::filesystem;
using model::Require;

namespace {

constexpr int kBaseDescriptor = 900;
std::atomic<uint64_t> next_number{1};

fs::path MakeFolder() {
  const fs::path base = ::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
  std::string pattern = (base / "heddle-system-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a folder in " + base.string());
  return pattern;
}

// The folder of two small base models, one a process, open under a number that is always the same.
class BaseModels {
 public:
  BaseModels() : folder_(MakeFolder()) {
    model::ModelSpec config = model::SmallestConfig(300);
    model::WriteModelFolder(folder_ / "base", config);
    config.num_hidden_layers = kLayers;
    model::WriteModelFolder(folder_ / "deep", config);
    const UniqueFd fd(::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid() || ::dup2(fd.get(), kBaseDescriptor) < 0) throw std::runtime_error("no descriptor is left");
  }
  ~BaseModels() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  BaseModels(const BaseModels&) = delete;
  BaseModels& operator=(const BaseModels&) = delete;

 private:
  fs::path folder_;
};

}  // namespace

Stage::Stage() : number_(next_number++), folder_(MakeFolder()) {
  Require(protocol::CertificateAuthority::Create(folder_ / "pki", "simulated authority", Seconds(86400)));
  auto authority = protocol::CertificateAuthority::Load(folder_ / "pki");
  Require(authority.status());
  authority_ = *std::move(authority);
  Require(protocol::GenerateKeyFile(folder_ / "device.key"));
  // A signature is now a byte longer, now shorter; of so many one is as long as can be. A world must not depend on it.
  for (int i = 0; i < 64; ++i) {
    std::string csr = protocol::MakeCsrDer(folder_ / "device.key", "device").value();
    if (csr.size() > csr_.size()) csr_ = std::move(csr);
  }
  MakeDatabase();
}

Stage::~Stage() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

fs::path Stage::RecipeFolder() {
  static const BaseModels bases;
  return "/proc/self/fd/" + std::to_string(kBaseDescriptor);
}

void Stage::MakeDatabase() {
  coordinator::testing::MemoryDisk disk("stage-" + std::to_string(number_));
  {
    auto store = coordinator::Store::Open(kDatabase, {.busy_timeout = Seconds(0), .vfs = disk.name()});
    Require(store.status());
    for (size_t i = 0; i < kDevices; ++i) {
      const Sha256Digest token = Sha256("token " + std::to_string(i));
      coordinator::DeviceRecord record;
      record.device = DeviceName(i);
      record.serial = Serial(i);
      record.enrolled_at = FromUnixMicros(1);
      record.not_after = FromUnixMicros(int64_t{1} << 60);
      Require((*store)->CreateToken(token, record.device, FromUnixMicros(int64_t{1} << 60)));
      Require((*store)->RedeemToken(token, FromUnixMicros(1), record));
    }
  }
  auto content = disk.Content(kDatabase);
  if (!content || content->empty()) throw std::runtime_error("the database was not written when it was closed");
  database_ = *std::move(content);
}

std::string Stage::SerialOf(const std::string& certificate_pem) {
  const auto certificates = protocol::internal::ParseCertificates(certificate_pem, "the answer");
  return certificates.ok() ? protocol::internal::SerialHexOf(certificates->front().get()) : "";
}

void Stage::Sweep() {
  files_.Sweep();
  std::error_code ignored;
  fs::remove_all(runs(), ignored);
  fs::remove_all(runs_aside(), ignored);
}

DeviceId Stage::DeviceName(size_t index) {
  const std::string digits = std::to_string(index);
  return DeviceId("device-" + std::string(digits.size() < 2 ? "0" : "") + digits);
}

std::string Stage::Serial(size_t index) { return "5e" + std::to_string(100 + index); }

std::string Stage::Recipe(uint64_t seed, const std::vector<std::pair<std::string, std::string>>& strategy, bool layers,
                          const std::string& train) {
  std::string text = "name = \"system\"\nseed = " + std::to_string(seed >> 1) + "\n[model]\nbase = \"" +
                     (layers ? "deep" : "base") +
                     "\"\n[lora]\nr = 1\ntarget_modules = [\"q_proj\"]\n"
                     "[train]\nlocal_steps = 8\nbatch_size = 8\nsequence_length = 32\n" +
                     train + "[strategy]\n";
  for (const auto& [key, value] : strategy) text += key + " = " + value + "\n";
  return text;
}

}  // namespace heddle::system_simulation
