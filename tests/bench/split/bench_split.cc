// heddle_bench_split: split learning beside the same work without a cut, a decoder of 12 blocks (110 M parameters) with
// random weights, LoRA of rank 8 on both sides. Prints [{id, value, unit}].
//   --what step      "step": seconds of a split step over TLS on loopback to those of an unsplit step, in turns;
//                    "bytes": of frames a sample, to the sizes of the tensors
//   --what together  "together": samples a second of 8 devices at once to those of the 8 one after another on a server
//                    that waits for nobody; "rate": the former; "wait": the longest wait for an answer at once, to a
//                    fair share (8 answers alone). Devices only move bytes.
//   --what device    "peak_mb": peak memory of a device after two steps of a U-shaped cut after 2 blocks; with
//                    --keep-activations as device.gradient_checkpointing = false has it
//   --what whole     "peak_mb": the same of LoRA training of the whole model
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "common/logging.h"
#include "common/subprocess.h"
#include "loopback.h"
#include "model/memory/tensor_memory.h"

namespace heddle::bench {
namespace {

namespace asio = boost::asio;
using client::SplitDevice;
using protocol::FrameKind;
using protocol::FrameSocket;
using protocol::TensorFrame;

const Duration kDeadline = Seconds(600);

struct Options {
  std::string what = "step", encoding = "bf16", weights = "f32";
  std::filesystem::path work = std::filesystem::temp_directory_path();
  int64_t layers = 12;
  int64_t batch = 4, length = 128, cut = 2;
  int rounds = 5, threads = 2, devices = 8, server_batch = 8;
  bool processor_time = false, keep_activations = false;

  at::ScalarType type() const { return weights == "bf16" ? at::kBFloat16 : at::kFloat; }
};

double Now(bool processor_time) {
  timespec now{};
  ::clock_gettime(processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

protocol::SplitPlan PlanOf(const Options& options) {
  protocol::SplitPlan plan;
  plan.cut = options.cut;
  plan.encoding = plan.gradient_encoding = Need(protocol::CutEncodingFromName(options.encoding));
  plan.devices_per_round = static_cast<uint32_t>(options.devices);
  plan.local_steps = 10'000;  // more than are taken: no round ends
  plan.checkpoint_every = 10'000;
  plan.batch_size = static_cast<uint32_t>(options.batch);
  plan.sequence_length = static_cast<uint32_t>(options.length);
  plan.server_batch = static_cast<uint32_t>(options.server_batch);
  plan.server_wait_ms = 20;
  plan.device_checkpointing = !options.keep_activations;
  return plan;
}

// A coroutine of this thread, to its end; what it throws comes out.
template <typename Work>
void Drive(Work work) {
  asio::io_context io;
  std::exception_ptr failed;
  asio::co_spawn(io, std::move(work), [&failed](std::exception_ptr failure) { failed = failure; });
  io.run();
  if (failed) std::rethrow_exception(failed);
}

// ---- a step ----

// LoRA on the whole model, or a part of it that is the whole.
struct WholeModel {
  model::Transformer network{nullptr};
  std::unique_ptr<peft::SplitHalf> half;
  RandomTokens tokens;

  explicit WholeModel(const Options& options)
      : tokens(options.batch, options.length, DecoderOf(options.layers).vocab_size, 1) {
    const auto base = RandomBase(DecoderOf(options.layers), options.type());
    const protocol::SplitSide side;
    half = Need(peft::SplitHalf::Make(base, side, Need(peft::InitialSide(*base, side, 1))));
  }
  double Step() {
    const auto batch = *Need(tokens.Next());
    const torch::Tensor loss = half->network()->Loss(batch.input, batch.targets);
    loss.backward();
    Need(half->FinishStep(1, static_cast<uint64_t>(batch.counted)));
    return loss.item<double>();
  }
};

// One step of the device over its connection. The frames' bytes, both ways, are added to `bytes`.
asio::awaitable<void> SplitStep(SplitDevice& device, FrameSocket& socket, std::string* next, uint64_t* bytes) {
  const uint64_t steps = device.stats().steps;
  while (device.stats().steps == steps) {
    Need(co_await socket.Write(*next, kDeadline));
    const std::string answer = Need(co_await socket.Read(kDeadline));
    *bytes += next->size() + answer.size();
    const auto action = Need(device.Take(answer));
    if (action.kind != SplitDevice::Action::Kind::kSend) throw std::runtime_error("the device has nothing to send");
    *next = action.frame;
  }
}

void MeasureStep(const Options& options) {
  Options alone = options;
  alone.devices = 1;
  const protocol::SplitPlan plan = PlanOf(alone);
  const model::ModelSpec spec = DecoderOf(options.layers);
  LoopbackServer server(plan, spec, options.type(), options.work, 1);
  const auto device = Need(SplitDevice::Make(DeviceOptions(plan, spec, options.type())));
  WholeModel whole(options);
  whole.half->network()->train();
  std::vector<double> ratios, seconds;
  uint64_t first_bytes = 0, bytes = 0;
  Drive([&]() -> asio::awaitable<void> {
    const auto socket = co_await server.Connect(0);
    std::string next = device->Hello();
    co_await SplitStep(*device, *socket, &next, &first_bytes);  // with the adapter, which is sent once a round
    whole.Step();
    for (int i = 0; i < options.rounds; ++i) {
      const double start = Now(options.processor_time);
      co_await SplitStep(*device, *socket, &next, &bytes);
      const double middle = Now(options.processor_time);
      whole.Step();
      seconds.push_back(Now(options.processor_time) - middle);
      ratios.push_back((middle - start) / seconds.back());
    }
    socket->Close();
  });
  // Activations, hidden states and the gradient of each.
  const uint64_t tensors =
      4 * protocol::EncodedBytes(plan.encoding, static_cast<uint64_t>(options.batch * options.length),
                                 static_cast<uint64_t>(spec.hidden_size));
  const double steps = options.rounds;
  std::printf(
      "[{\"id\":\"step\",\"value\":%.4f,\"unit\":\"ratio\",\"unsplit_seconds\":%.3f},\n"
      " {\"id\":\"bytes\",\"value\":%.5f,\"unit\":\"ratio\",\"bytes_a_sample\":%.0f}]\n",
      Median(ratios), Median(seconds), static_cast<double>(bytes) / (steps * static_cast<double>(tensors)),
      static_cast<double>(bytes) / (steps * static_cast<double>(options.batch)));
}

// ---- many devices ----

// A device that only moves bytes: the same activations and gradients in every step.
class LightDevice {
 public:
  LightDevice(const protocol::SplitPlan& plan, int64_t width) : schedule_(plan.schedule()) {
    const torch::Tensor x = torch::randn({plan.batch_size, plan.sequence_length, width});
    Need(peft::PutTensor(x, plan.encoding, &activations_));
    Need(peft::PutTensor(1e-3 * x, plan.gradient_encoding, &gradient_));
    activations_.counted = gradient_.counted = static_cast<uint32_t>(x.size(0) * x.size(1));
  }

  asio::awaitable<void> Begin(std::shared_ptr<FrameSocket> socket, std::string digest) {
    socket_ = std::move(socket);
    protocol::ControlFrame hello;
    hello.text = std::move(digest);
    Need(co_await socket_->Write(Serialize(hello), kDeadline));
    const std::string answer = Need(co_await socket_->Read(kDeadline));
    session_ = Need(protocol::ParseControlFrame(answer)).session;
    if (session_ == 0) throw std::runtime_error("the server has no place for a device");
  }
  // The seconds that each answer took are added to `waits`.
  asio::awaitable<void> Steps(int steps, std::vector<double>* waits) {
    const uint32_t end = sequence_ + static_cast<uint32_t>(steps) * schedule_.RequestsOfStep();
    while (sequence_ < end) {
      const auto place = schedule_.At(++sequence_);
      TensorFrame& frame = place.request == FrameKind::kActivations ? activations_ : gradient_;
      frame.kind = place.request;
      frame.session = session_;
      frame.sequence = sequence_;
      frame.step = place.step;
      frame.micro = place.micro;
      frame.micros = schedule_.micros;
      const std::string bytes = Serialize(frame);
      const double start = Now(false);
      Need(co_await socket_->Write(bytes, kDeadline));
      const std::string answer = Need(co_await socket_->Read(kDeadline));
      waits->push_back(Now(false) - start);
      if (Need(protocol::KindOf(answer)) != place.answer) throw std::runtime_error("an answer is none");
    }
  }
  void Close() { socket_->Close(); }

 private:
  const protocol::SplitSchedule schedule_;
  TensorFrame activations_, gradient_;
  std::shared_ptr<FrameSocket> socket_;
  uint64_t session_ = 0;
  uint32_t sequence_ = 0;
};

// A server with a session for each of its devices.
struct Fleet {
  Fleet(const Options& options, const protocol::SplitPlan& plan, const std::string& name)
      : server(plan, DecoderOf(options.layers), options.type(), options.work / name, options.devices) {
    for (int i = 0; i < options.devices; ++i) devices.emplace_back(plan, DecoderOf(options.layers).hidden_size);
  }
  asio::awaitable<void> Begin() {
    for (size_t i = 0; i < devices.size(); ++i) {
      co_await devices[i].Begin(co_await server.Connect(static_cast<int>(i)), "bench");
    }
  }

  LoopbackServer server;
  std::vector<LightDevice> devices;
};

// The two sides have a server each: one that takes devices together may wait for others before it begins, which who
// comes alone should not have to.
void MeasureTogether(const Options& options) {
  Options one_by_one = options;
  one_by_one.server_batch = 1;
  asio::io_context io;  // of all connections
  Fleet alone(options, PlanOf(one_by_one), "apart"), all(options, PlanOf(options), "together");
  constexpr int kSteps = 2;
  std::vector<double> ratios, rates, shares;
  const auto run = [&io](std::vector<std::function<asio::awaitable<void>()>> work) {
    std::exception_ptr failed;
    for (auto& one : work) {
      asio::co_spawn(io, std::move(one), [&failed](std::exception_ptr failure) {
        if (failure) failed = failure;
      });
    }
    io.restart();
    io.run();
    if (failed) std::rethrow_exception(failed);
  };
  for (Fleet* fleet : {&alone, &all}) run({[fleet] { return fleet->Begin(); }});
  const auto apart = [&](std::vector<double>* waits) {
    run({[&, waits]() -> asio::awaitable<void> {
      for (LightDevice& device : alone.devices) co_await device.Steps(kSteps, waits);
    }});
  };
  const auto together = [&](std::vector<double>* waits) {
    std::vector<std::function<asio::awaitable<void>()>> work;
    for (LightDevice& device : all.devices) {
      work.emplace_back([&device, waits] { return device.Steps(kSteps, waits); });
    }
    run(std::move(work));
  };
  std::vector<double> warm;
  apart(&warm);
  together(&warm);
  for (int i = 0; i < options.rounds; ++i) {
    std::vector<double> of_apart, of_together;
    const double start = Now(options.processor_time);
    apart(&of_apart);
    const double middle = Now(options.processor_time);
    together(&of_together);
    const double end = Now(options.processor_time);
    ratios.push_back((middle - start) / (end - middle));
    rates.push_back(static_cast<double>(options.devices * kSteps * options.batch) / (end - middle));
    const double fair = static_cast<double>(options.devices) * Median(of_apart);
    shares.push_back(*std::max_element(of_together.begin(), of_together.end()) / fair);
  }
  for (Fleet* fleet : {&alone, &all}) {
    for (LightDevice& device : fleet->devices) device.Close();
  }
  std::printf(
      "[{\"id\":\"together\",\"value\":%.4f,\"unit\":\"ratio\"},\n"
      " {\"id\":\"rate\",\"value\":%.1f,\"unit\":\"samples/s\"},\n"
      " {\"id\":\"wait\",\"value\":%.4f,\"unit\":\"ratio\"}]\n",
      Median(ratios), Median(rates), Median(shares));
}

// ---- memory ----

void PrintPeak() {
  const ProcessMemory memory = Need(ReadProcessMemory(::getpid()));
  std::printf("[{\"id\":\"peak_mb\",\"value\":%.1f,\"unit\":\"MB\"}]\n",
              static_cast<double>(memory.peak_rss_bytes) / 1e6);
}

// A server that makes nothing of what it is sent: a device's memory is the same.
void MeasureDevice(const Options& options) {
  const protocol::SplitPlan plan = PlanOf(options);
  client::SplitDeviceOptions parts = DeviceOptions(plan, DecoderOf(options.layers), options.type());
  protocol::ControlFrame welcome;
  welcome.kind = FrameKind::kWelcome;
  welcome.session = 1;
  welcome.round = 1;
  welcome.tensors = Need(peft::InitialSide(*parts.part, plan.device, 1));
  const auto device = Need(SplitDevice::Make(std::move(parts)));
  auto action = Need(device->Take(Serialize(welcome)));
  while (device->stats().steps < 2) {
    TensorFrame frame = Need(protocol::ParseTensorFrame(action.frame));
    frame.kind = plan.schedule().At(frame.sequence).answer;
    frame.durable = frame.sequence;
    action = Need(device->Take(Serialize(frame)));
  }
  PrintPeak();
}

void MeasureWhole(const Options& options) {
  WholeModel whole(options);
  for (int i = 0; i < 2; ++i) whole.Step();
  PrintPeak();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Split learning beside the same work without a cut");
  app.add_option("--what", options.what, "step, together, device, whole")
      ->check(CLI::IsMember({"step", "together", "device", "whole"}));
  app.add_option("--work", options.work, "folder for the server's state");
  app.add_option("--encoding", options.encoding, "at the cut");
  app.add_option("--weights", options.weights, "of the base")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--layers", options.layers, "of the model")->check(CLI::Range(2, 100));
  app.add_option("--cut", options.cut, "blocks on the device")->check(CLI::Range(0, 99));
  app.add_option("--batch", options.batch, "sequences a step")->check(CLI::Range(1, 4096));
  app.add_option("--length", options.length, "tokens of each")->check(CLI::Range(1, 512));
  app.add_option("--devices", options.devices, "of `together`")->check(CLI::Range(1, 64));
  app.add_option("--server-batch", options.server_batch, "of them in one pass")->check(CLI::Range(1, 64));
  app.add_option("--rounds", options.rounds, "of each side, in turns")->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "that compute, on either side")->check(CLI::Range(1, 256));
  app.add_flag("--keep-activations", options.keep_activations,
               "a device keeps what its blocks computed (device.gradient_checkpointing = false)");
  app.add_flag("--processor-time", options.processor_time, "instead of the wall's, for a machine that is not quiet");
  CLI11_PARSE(app, argc, argv);
  model::UseTensorMemory(model::kDeviceSpare);  // as in the programs
  LogOptions quiet;
  quiet.level = "error";
  Need(InitLogging(quiet));
  at::set_num_threads(options.threads);
  options.work /= "split-" + std::to_string(::getpid());
  if (options.what == "step") MeasureStep(options);
  if (options.what == "together") MeasureTogether(options);
  if (options.what == "device") MeasureDevice(options);
  if (options.what == "whole") MeasureWhole(options);
  std::error_code ignored;
  std::filesystem::remove_all(options.work, ignored);
  return 0;
}

}  // namespace
}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_split: %s\n", error.what());
    return 1;
  }
}
