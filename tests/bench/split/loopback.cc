#include "loopback.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <thread>

#include "common/file.h"
#include "common/ids.h"
#include "coordinator/split/pump.h"
#include "model/config/cut.h"
#include "model/config/registry.h"
#include "protocol/transport/tls.h"

namespace heddle::bench {

namespace asio = boost::asio;
using torch::Tensor;

namespace {

constexpr char kDigest[] = "bench";

model::ModelSpec PartOf(const protocol::SplitPlan& plan, model::ModelSpec spec, bool device) {
  const model::Cut cut{plan.cut, Need(model::SplitTopologyFromName(plan.topology))};
  spec.part = Need(device ? model::DevicePart(spec, cut) : model::ServerPart(spec, cut));
  return spec;
}

}  // namespace

std::string DeviceName(int index) { return "device-" + std::to_string(index); }

model::ModelSpec DecoderOf(int64_t layers) {
  return Need(model::ParseModelConfig(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768, "intermediate_size": 2048,
          "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32000, "max_position_embeddings": 512,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
          "num_hidden_layers": )" +
      std::to_string(layers) + "}"));
}

std::shared_ptr<const model::BaseWeights> RandomBase(const model::ModelSpec& spec, at::ScalarType type) {
  auto base = std::make_shared<model::BaseWeights>();
  base->spec = spec;
  for (const auto& [name, tensor] : spec.WeightSpec()) {
    base->tensors.emplace(name, tensor.shape.size() < 2
                                    ? torch::ones(tensor.shape)
                                    : torch::normal(0.0, 0.02, tensor.shape, c10::nullopt, {}).to(type));
  }
  return base;
}

RandomTokens::RandomTokens(int64_t batch, int64_t length, int64_t vocabulary, uint64_t seed)
    : batch_(batch), length_(length), vocabulary_(vocabulary), generator_(at::detail::createCPUGenerator(seed)) {}

Result<std::optional<client::HeadBatch>> RandomTokens::Next() {
  client::HeadBatch batch;
  batch.input.ids = torch::randint(vocabulary_, {batch_, length_}, generator_, torch::kLong);
  batch.targets = torch::randint(vocabulary_, {batch_, length_}, generator_, torch::kLong);
  batch.rows = static_cast<uint64_t>(batch_);
  batch.tokens = static_cast<uint64_t>(batch_ * length_);
  batch.counted = batch_ * length_;
  return std::optional<client::HeadBatch>(std::move(batch));
}

struct LoopbackServer::Impl {
  Status MakeKeys(const std::filesystem::path& folder, int devices) {
    const Duration year = std::chrono::hours(365 * 24);
    HEDDLE_RETURN_IF_ERROR(protocol::CertificateAuthority::Create(folder, "bench", year));
    HEDDLE_ASSIGN_OR_RETURN(const auto authority, protocol::CertificateAuthority::Load(folder));
    HEDDLE_RETURN_IF_ERROR(authority.IssueServer(folder, {"127.0.0.1"}, year));
    HEDDLE_RETURN_IF_ERROR(protocol::GenerateKeyFile(folder / "device.key"));
    for (int i = 0; i < devices; ++i) {
      const std::string name = DeviceName(i);
      HEDDLE_ASSIGN_OR_RETURN(const std::string request, protocol::MakeCsrDer(folder / "device.key", name));
      HEDDLE_ASSIGN_OR_RETURN(const auto issued, authority.IssueDevice(request, DeviceId(name), year));
      HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(folder / (name + ".crt"), issued.certificate_pem));
      protocol::ClientTlsOptions tls;
      tls.ca_pem = authority.certificate_pem();
      tls.certificate = folder / (name + ".crt");
      tls.key = folder / "device.key";
      HEDDLE_ASSIGN_OR_RETURN(auto context, protocol::MakeClientTls(tls));
      contexts.push_back(std::move(context));
    }
    HEDDLE_ASSIGN_OR_RETURN(listener_options.tls, protocol::MakeServerTls({folder / "server.crt", folder / "server.key",
                                                                           authority.certificate_pem()}));
    return OkStatus();
  }

  std::vector<std::shared_ptr<asio::ssl::context>> contexts;
  protocol::ListenerOptions listener_options;
  std::unique_ptr<coordinator::SplitServer> server;
  asio::io_context io;
  asio::thread_pool compute{1};
  std::unique_ptr<coordinator::SplitPump> pump;
  std::unique_ptr<protocol::FrameListener> listener;
  std::thread thread;
};

LoopbackServer::LoopbackServer(const protocol::SplitPlan& plan, const model::ModelSpec& spec, at::ScalarType type,
                               const std::filesystem::path& folder, int devices)
    : impl_(std::make_unique<Impl>()) {
  Need(MakeDirectories(folder / "keys"));
  Need(impl_->MakeKeys(folder / "keys", devices));
  coordinator::SplitServerOptions options;
  options.plan = plan;
  options.plan_digest = kDigest;
  options.part = RandomBase(PartOf(plan, spec, false), type);
  options.device_start = Need(peft::InitialSide(*RandomBase(PartOf(plan, spec, true), type), plan.device, 1));
  options.folder = folder / "run";
  impl_->server = Need(coordinator::SplitServer::Make(std::move(options)));
  impl_->pump = std::make_unique<coordinator::SplitPump>(impl_->compute.get_executor(), *impl_->server);
  impl_->listener_options.max_in_flight = plan.schedule().MaxInFlight();
  impl_->listener = std::make_unique<protocol::FrameListener>(
      impl_->io, impl_->compute.get_executor(), impl_->listener_options,
      [this](const std::string& device, std::string frame, coordinator::SplitPump::Reply reply) {
        impl_->pump->Take(device, std::move(frame), std::move(reply));
      });
  Need(impl_->listener->Start());
  impl_->thread = std::thread([this] { impl_->io.run(); });
}

LoopbackServer::~LoopbackServer() {
  impl_->listener->Stop();
  impl_->pump->Stop();
  impl_->thread.join();
  impl_->compute.join();
}

asio::awaitable<std::shared_ptr<protocol::FrameSocket>> LoopbackServer::Connect(int index) {
  protocol::FrameSocket::Target target;
  target.host = "127.0.0.1";
  target.port = impl_->listener->port();
  target.tls = impl_->contexts.at(static_cast<size_t>(index));
  co_return Need(co_await protocol::FrameSocket::Connect(target, {}));
}

client::SplitDeviceOptions DeviceOptions(const protocol::SplitPlan& plan, const model::ModelSpec& spec,
                                         at::ScalarType type) {
  client::SplitDeviceOptions options;
  options.plan = plan;
  options.plan_digest = kDigest;
  options.part = RandomBase(PartOf(plan, spec, true), type);
  options.batches = [plan,
                     vocabulary = spec.vocab_size](uint64_t seed) -> Result<std::unique_ptr<client::HeadBatches>> {
    return std::unique_ptr<client::HeadBatches>(
        std::make_unique<RandomTokens>(plan.batch_size, plan.sequence_length, vocabulary, seed));
  };
  return options;
}

}  // namespace heddle::bench
