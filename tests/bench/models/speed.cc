#include <torch/version.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <memory>

#include "bench_models.h"
#include "common/file.h"
#include "common/random.h"
#include "common/safetensors.h"
#include "common/subprocess.h"
#include "model/training/optimizer.h"
#include "model/transformer/transformer.h"
#include "peft/lora/lora.h"

namespace heddle::bench {
namespace {

using torch::Tensor;

constexpr double kLearningRate = 1e-4;

struct Timed {
  double seconds = 0, loss = 0;
};

// The decoder, all of whose weights are trained.
class Ours {
 public:
  Ours(const model::ModelSpec& spec, const Tensor& ids, const Tensor& targets)
      : network_(spec, 1), ids_(ids), targets_(targets) {
    model::OptimizerOptions options;
    options.weight_decay = 0.01;
    optimizer_ = model::MakeOptimizer(model::OptimizerKind::kAdamW, network_->parameters(), options);
  }
  StateDict Weights() {
    StateDict out;
    for (const auto& item : network_->named_parameters()) out.emplace(item.key(), peft::ToStateTensor(item.value()));
    return out;
  }
  Timed Forward() {
    torch::NoGradGuard no_grad;
    network_->eval();
    const double started = Now();
    const double loss = network_->Loss(ids_, targets_).item<double>();
    return {Now() - started, loss};
  }
  Timed Step() {
    network_->train();
    const double started = Now();
    const Tensor loss = network_->Loss(ids_, targets_);
    loss.backward();
    optimizer_->Step(kLearningRate);
    return {Now() - started, loss.item<double>()};
  }

 private:
  model::Transformer network_;
  Tensor ids_, targets_;
  std::unique_ptr<model::Optimizer> optimizer_;
};

// The same model in Python: answers "forward" and "step" with seconds and loss. `missing` says why there is none.
class Python {
 public:
  Python(const ModelsOptions& options, const std::filesystem::path& folder) {
    SubprocessOptions child;
    child.argv = {options.python, std::string(HEDDLE_SOURCE_DIR) + "/tests/bench/models/decoder.py", folder.string(),
                  std::to_string(options.threads), by_processor_time ? "processor" : "wall"};
    child.extra_environment = {"OMP_NUM_THREADS=" + std::to_string(options.threads)};
    child.pipe_stdin = child.pipe_stdout = true;
    child.stderr_file = folder / "python.log";
    auto started = Subprocess::Start(child);
    if (!started.ok()) {
      missing = "there is no " + options.python;
      return;
    }
    process_ = std::make_unique<Subprocess>(*std::move(started));
    const std::string hello = Line();
    const std::string wanted = TORCH_VERSION;
    const std::string major = wanted.substr(0, wanted.rfind('.'));
    if (!hello.starts_with("torch ")) {
      missing = "Python has no torch: apt-get install python3-torch, or ./run bench --with-python-torch";
    } else if (!hello.substr(6).starts_with(major)) {
      missing = "Python has torch " + hello.substr(6) + ", not the LibTorch of this build, " + wanted;
    }
  }
  Timed Ask(const std::string& what) {
    const std::string line = what + "\n";
    if (::write(process_->stdin_fd(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      throw std::runtime_error("the Python process does not listen");
    }
    Timed timed;
    if (std::sscanf(Line().c_str(), "%lf %lf", &timed.seconds, &timed.loss) != 2) {
      throw std::runtime_error("the Python process failed; see its messages in python.log");
    }
    return timed;
  }
  std::string missing;

 private:
  std::string Line() {
    std::string line;
    char c = 0;
    for (;;) {
      const ssize_t n = ::read(process_->stdout_fd(), &c, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0 || c == '\n') return line;
      line += c;
    }
  }
  std::unique_ptr<Subprocess> process_;
};

struct Times {
  std::vector<double> ours, products, python;
};

void Compare(double ours, double theirs, const std::string& what) {
  if (std::abs(ours - theirs) <= 2e-3 * std::abs(theirs)) return;
  throw std::runtime_error("the models do not compute the same " + what + ": losses are " + std::to_string(ours) +
                           " and " + std::to_string(theirs));
}

std::vector<Row> RowsOf(const std::string& name, const Times& times, double gigaflop, const Python& python) {
  const double ours = MedianOf(times.ours), products = MedianOf(times.products);
  const std::string medians = "medians of " + std::to_string(times.ours.size()) + " in turns";
  char figures[96];
  std::snprintf(figures, sizeof figures, "; %.2f s, products alone %.2f s (%.0f GFLOP/s)", ours, products,
                gigaflop / products);
  std::vector<Row> rows = {{name + "-products", products / ours, medians + figures, false}};
  if (!python.missing.empty()) {
    rows.push_back({name + "-python", 0, python.missing, true});
  } else {
    std::snprintf(figures, sizeof figures, "; Python %.2f s", MedianOf(times.python));
    rows.push_back({name + "-python", ours / MedianOf(times.python), medians + figures, false});
  }
  return rows;
}

}  // namespace

std::vector<Row> MeasureSpeed(const ModelsOptions& options) {
  at::set_num_threads(options.threads);
  const model::ModelSpec spec = DecoderSpec(options.length);
  Tensor ids = torch::empty({options.batch, options.length}, torch::kLong);
  PhiloxStream random(3);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    ids.data_ptr<int64_t>()[i] = random.NextBelow(static_cast<uint32_t>(spec.vocab_size));
  }
  const Tensor targets = torch::roll(ids, -1, 1);
  Ours ours(spec, ids, targets);
  const Products products(spec, options.batch, options.length);

  StateDict files = ours.Weights();
  for (const auto& [name, tensor] : {std::pair{"ids", ids}, {"targets", targets}}) {
    files.emplace(name, peft::ToStateTensor(tensor.to(torch::kFloat)));  // below 2^24: exact
  }
  Need(WriteSafetensors(options.work / "decoder.safetensors", files));
  files.clear();
  Python python(options, options.work);
  const bool side_by_side = python.missing.empty();

  Times forward, step;
  for (int turn = 0; turn <= options.turns; ++turn) {
    const Timed f = ours.Forward();
    const double f_products = products.ForwardSeconds();
    const Timed f_python = side_by_side ? python.Ask("forward") : Timed{};
    const Timed s = ours.Step();
    const double s_products = products.TrainingSeconds();
    const Timed s_python = side_by_side ? python.Ask("step") : Timed{};
    if (side_by_side) {
      Compare(f.loss, f_python.loss, "forward pass");
      Compare(s.loss, s_python.loss, "training step");
    }
    if (turn == 0) continue;  // warm-up
    forward.ours.push_back(f.seconds);
    forward.products.push_back(f_products);
    forward.python.push_back(f_python.seconds);
    step.ours.push_back(s.seconds);
    step.products.push_back(s_products);
    step.python.push_back(s_python.seconds);
  }
  std::vector<Row> rows = RowsOf("forward", forward, products.ForwardGigaflop(), python);
  for (Row& row : RowsOf("step", step, 3 * products.ForwardGigaflop(), python)) rows.push_back(std::move(row));
  return rows;
}

}  // namespace heddle::bench
