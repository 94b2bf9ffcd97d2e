#include "tests/fuzz/coordinator/service_world.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "common/safetensors.h"
#include "model/architectures/architectures.h"
#include "model/config/registry.h"
#include "model/tokenizer/bpe_trainer.h"
#include "protocol/transport/tls.h"
#include "tests/fuzz/scratch.h"

namespace heddle::fuzz {

namespace fs = std::filesystem;
using namespace coordinator;

namespace {

// What a process makes once: the authority and a base model.
struct Template {
  Scratch scratch;
  protocol::CertificateAuthority authority;
  std::string csr;

  Template() {
    WriteBase();
    Require(protocol::CertificateAuthority::Create(scratch / "pki", "fuzzed authority", Seconds(86400)).ok(), "a CA");
    auto loaded = protocol::CertificateAuthority::Load(scratch / "pki");
    Require(loaded.ok(), "the authority can be loaded", loaded.status().message());
    authority = *std::move(loaded);
    Require(protocol::GenerateKeyFile(scratch / "device.key").ok(), "a device's key can be made");
    csr = protocol::MakeCsrDer(scratch / "device.key", "whoever").value();
  }

 private:
  void WriteBase() {
    const auto config = model::ParseModelConfig(
        R"({"model_type":"llama","hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":1,)"
        R"("num_key_value_heads":1,"vocab_size":260,"max_position_embeddings":16,"rms_norm_eps":1e-5,)"
        R"("rope_theta":10000.0,"tie_word_embeddings":true,"torch_dtype":"float32"})");
    Require(config.ok(), "the test's model is one", config.status().message());
    StateDict weights;
    for (const auto& [name, spec] : config->WeightSpec()) {
      std::span<std::byte> ignored;
      weights.emplace(name, Tensor::Allocate(spec, &ignored));
    }
    model::BpeTrainer trainer;
    trainer.Add("In the beginning God created the heaven and the earth.");
    model::BpeTrainerOptions options;
    options.vocab_size = 258;
    const auto tokenizer = trainer.Train(options);
    Require(tokenizer.ok(), "the test's tokenizer can be trained", tokenizer.status().message());
    std::error_code ignored;
    fs::create_directories(scratch / "base", ignored);
    scratch.Write("base/config.json", model::LlamaConfigJson(*config));
    scratch.Write("base/tokenizer.json", *tokenizer);
    scratch.Write("base/model.safetensors", SerializeSafetensors(weights));
  }
};

const Template& TheTemplate() {
  static const Template made;
  return made;
}

struct Words {
  const char *name, *strategy, *tables;
};
constexpr Words kWords[] = {{"fedavg", "", ""},
                            {"ledger", "name = 'FedKSeed'\npool_size = 64\n", "[zo]\ndistribution = 'rademacher'\n"},
                            {"encoded", "", "[compression]\nupload = ['int8']\n"}};

// The state that each World of a method begins from.
struct Beginning {
  std::string recipe;
  fs::path folder;
  // One for all Worlds, each of which throws away what the one before it left: making its 256 folders anew would cost
  // more than all requests of an input.
  std::unique_ptr<BlobStore> blobs;
  std::set<Sha256Digest> kept;

  explicit Beginning(const Words& words)
      : recipe(std::string("name = 'fuzzed'\n[model]\nbase = 'base'\n[lora]\nr = 1\ntarget_modules = ['q_proj']\n") +
               "[train]\nlocal_steps = 2\nbatch_size = 2\nsequence_length = 8\n[strategy]\nnum_server_rounds = 3\n" +
               "cohort_size = 2\nmin_reports = 1\nmin_available_devices = 1\nreport_deadline_s = 600\nmax_abs = 4.0\n" +
               words.strategy + words.tables),
        folder(TheTemplate().scratch / words.name) {
    std::error_code ignored;
    fs::create_directories(folder / "state", ignored);
    auto opened = BlobStore::Open({.root = folder / "blobs", .max_upload_bytes = 1 << 20, .max_uploads = 16});
    Require(opened.ok(), "the blobs can be opened", opened.status().message());
    blobs = *std::move(opened);
    WriteState();
    for (const Sha256Digest& digest : Garbage({})) kept.insert(digest);
  }

  // All blobs but these.
  std::vector<Sha256Digest> Garbage(const std::set<Sha256Digest>& live) const {
    auto found = blobs->ListGarbage(live, FarFuture());
    Require(found.ok(), "the blobs can be listed", found.status().message());
    return *std::move(found);
  }
  static Time FarFuture() { return SystemClock().Now() + Seconds(1e9); }

 private:
  void WriteState() {
    auto store = Store::Open(folder / "state/coordinator.db");
    Require(store.ok(), "the test's state can be made");
    const TestClock clock;
    const Time later = clock.Now() + Seconds(1e6);
    for (const char* name : {"phone-1", "phone-2", "phone-3"}) {
      const Sha256Digest token = Sha256(std::string_view(name));
      const DeviceRecord device{.device = DeviceId(name),
                                .serial = std::string("0") + name[6],
                                .not_after = later,
                                .enrolled_at = clock.Now()};
      Require((*store)->CreateToken(token, device.device, later).ok() &&
                  (*store)->RedeemToken(token, clock.Now(), device).ok(),
              "a device can be enrolled");
    }
    Require((*store)->RevokeDevice(DeviceId("phone-3"), clock.Now()).ok(), "a device can be revoked");
    Require((*store)->CreateToken(Sha256(std::string_view("token")), DeviceId("phone-4"), later).ok(), "a token");
    RunCoreOptions options;
    options.store = store->get();
    options.blobs = blobs.get();
    options.clock = &clock;
    options.runs_folder = folder / "state/runs";
    Submission submission;
    submission.recipe_text = recipe;
    submission.folder = TheTemplate().scratch.path();
    const auto core = RunCore::Create(options, submission);
    Require(core.ok(), "the test's run can be made", core.status().message());
  }
};

const Beginning& BeginningOf(World::Method method) {
  static std::unique_ptr<Beginning> made[std::size(kWords)];
  const auto which = static_cast<size_t>(method);
  if (!made[which]) made[which] = std::make_unique<Beginning>(kWords[which]);
  return *made[which];
}

fs::path StateFolder() { return TheTemplate().scratch / "state"; }

}  // namespace

const fs::path& World::Folder() { return TheTemplate().scratch.path(); }
const std::string& World::Recipe() { return BeginningOf(Method::kFedAvg).recipe; }
const std::string& World::CsrDer() { return TheTemplate().csr; }

World::World(Method method) {
  const Beginning& beginning = BeginningOf(method);
  const fs::path state = StateFolder();
  std::error_code error;
  fs::remove_all(state, error);
  fs::copy(beginning.folder / "state", state, fs::copy_options::recursive, error);
  Require(!error, "the state can be copied", error.message());
  auto store = Store::Open(state / "coordinator.db");
  Require(store.ok(), "the state can be opened");
  store_ = *std::move(store);
  blobs_ = beginning.blobs.get();
  Require(blobs_->DiscardStaleUploads(Beginning::FarFuture()).ok() && blobs_->num_uploads() == 0, "no upload is left");
  for (const Sha256Digest& digest : beginning.Garbage(beginning.kept)) {
    Require(blobs_->Delete(digest).ok(), "a blob can be deleted");
  }
  Require(directory_.Load(*store_).ok(), "the devices can be read");
  config_.state_dir = state.string();
  config_.max_upload_bytes = 256 << 10;

  RunDriverOptions options;
  options.core.store = store_.get();
  options.core.blobs = blobs_;
  options.core.clock = &clock_;
  options.core.runs_folder = config_.runs();
  options.core.traffic = [this] { return metrics_.traffic(); };
  options.own_thread = false;
  driver_ = std::make_unique<RunDriver>(std::move(options));
  Require(driver_->Start().ok() && driver_->busy(), "the run is taken up");
  devices_ = std::make_unique<DeviceApi>(DeviceApiContext{.config = &config_,
                                                          .store = store_.get(),
                                                          .blobs = blobs_,
                                                          .driver = driver_.get(),
                                                          .directory = &directory_,
                                                          .metrics = &metrics_,
                                                          .clock = &clock_,
                                                          .authority = &TheTemplate().authority,
                                                          .disk = io_.get_executor(),
                                                          .check = io_.get_executor(),
                                                          .close_connections = [](const std::string&) {}});
  AdminApiContext admin;
  admin.config = &config_;
  admin.store = store_.get();
  admin.blobs = blobs_;
  admin.driver = driver_.get();
  admin.directory = &directory_;
  admin.metrics = &metrics_;
  admin.clock = &clock_;
  admin.disk = io_.get_executor();
  admin.watch = io_.get_executor();
  admin.server_stats = [] { return protocol::ServerStats(); };
  admin.close_connections = [](const std::string&) {};
  admin.ready = &ready_;
  admin.token = kAdminToken;
  admin_ = std::make_unique<AdminApi>(std::move(admin));
}

World::~World() = default;

std::optional<Asked> World::Ask(Listener listener, std::string_view head_text, std::string body,
                                const std::string& device, bool broken) {
  protocol::RequestHead head;
  protocol::HeadError error;
  if (!protocol::ParseRequestHead(std::string(head_text) + "\r\n\r\n", &head, &error)) return std::nullopt;
  if (!head.content_length && !body.empty()) {
    head.content_length = body.size();
    head.headers.emplace_back("Content-Length", std::to_string(body.size()));
  }
  // A watch that waits would block the one thread for real seconds.
  if (listener == Listener::kAdmin && head.path.ends_with(":watch")) head.query = "timeout_s=0&" + head.query;
  const bool short_body = body.size() < head.content_length.value_or(0);
  protocol::Peer peer;
  peer.address = "127.0.0.1:4711";
  if (!device.empty()) {
    peer.authenticated = true;
    peer.device = device;
    peer.serial_hex = std::string("0") + device.back();
  }
  auto exchange = std::make_shared<testing::LocalExchange>(io_.get_executor(), std::move(head), std::move(peer));
  testing::StartHandling(
      io_,
      [this, listener](protocol::Exchange& asked) -> protocol::Awaitable<void> {
        if (listener == Listener::kDevices) {
          co_await devices_->Handle(asked);
        } else {
          co_await admin_->Handle(asked);
        }
      },
      exchange);
  Poll();
  exchange->Receive(std::string_view(body).substr(0, body.size() / 2));
  Poll();
  if (!broken) exchange->Receive(std::string_view(body).substr(body.size() / 2));
  Poll();
  if (broken || short_body) exchange->Break();
  Poll();
  if (!exchange->finished()) waiting_.push_back(exchange);
  return Asked{std::move(exchange), device, std::move(body)};
}

void World::Poll() {
  for (int quiet = 0; quiet < 2;) {
    io_.restart();
    const size_t did = io_.poll();
    driver_->RunPending();
    quiet = did == 0 ? quiet + 1 : 0;
  }
}

void World::Advance(Duration time) {
  clock_.Advance(time);
  Poll();
}

void World::End() {
  for (const auto& exchange : waiting_) exchange->BeginShutdown();
  Poll();
  driver_->Stop();
  Poll();
  for (const auto& exchange : waiting_) Require(exchange->finished(), "every request ends with the server");
}

}  // namespace heddle::fuzz
