// A split server and devices in this process, with TLS over loopback between them, and random models of real sizes for
// both. Whatever fails throws.
//
// Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "client/split/device.h"
#include "coordinator/split/server.h"
#include "protocol/transport/frame_socket.h"
#include "tests/bench/need.h"

namespace heddle::bench {

// Of Llama's shape: `layers` blocks of width 768, 12 heads, inner width 2048, a vocabulary of 32 000, tied.
model::ModelSpec DecoderOf(int64_t layers);
// Random weights of a model or of a part of it.
std::shared_ptr<const model::BaseWeights> RandomBase(const model::ModelSpec& spec, at::ScalarType type);

// Windows of random tokens, without an end.
class RandomTokens final : public client::HeadBatches {
 public:
  RandomTokens(int64_t batch, int64_t length, int64_t vocabulary, uint64_t seed);
  Result<std::optional<client::HeadBatch>> Next() override;

 private:
  int64_t batch_, length_, vocabulary_;
  at::Generator generator_;
};

// The server, listening. Its folder is on the disk that is measured.
class LoopbackServer {
 public:
  LoopbackServer(const protocol::SplitPlan& plan, const model::ModelSpec& spec, at::ScalarType type,
                 const std::filesystem::path& folder, int devices);
  ~LoopbackServer();
  // A connection with the certificate of device `index`.
  boost::asio::awaitable<std::shared_ptr<protocol::FrameSocket>> Connect(int index);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string DeviceName(int index);

// The device's half for the plan, on random weights and tokens.
client::SplitDeviceOptions DeviceOptions(const protocol::SplitPlan& plan, const model::ModelSpec& spec,
                                         at::ScalarType type);

}  // namespace heddle::bench
