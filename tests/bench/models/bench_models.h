// The measurements of real model sizes: speed beside LibTorch's own matrix products and beside Python, loading, and the
// memory of training. Each writes rows of {"id", "value", "note"}; those that cannot be taken say so.
//
// Include only from translation units of targets with TORCH. One thread at a time; whatever fails throws.
#pragma once

#include <torch/types.h>

#include <time.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/status.h"
#include "model/config/model_spec.h"
#include "tests/bench/need.h"

namespace heddle::bench {

struct Row {
  std::string id;
  double value = 0;
  std::string note;
  bool skipped = false;  // then `note` says why
};

struct ModelsOptions {
  std::filesystem::path work;  // scratch
  int turns = 5;
  int threads = 2;
  int64_t batch = 8, length = 128;
  int64_t megabytes = 500;                  // of the file that is loaded
  std::string python = "/usr/bin/python3";  // the distribution's, whose torch is
};

// Seconds by the wall, or of this process's processor time: with one thread, for a machine that is not quiet.
inline bool by_processor_time = false;
inline double Now() {
  timespec now{};
  ::clock_gettime(by_processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Six layers of width 768 in Llama's shape: 12 heads, inner width 2048, a vocabulary of 32 000, tied: 67 M parameters.
model::ModelSpec DecoderSpec(int64_t length);

// Matrix products of the decoder, each shape as it comes up in a pass over batch x length tokens, and the time that
// LibTorch's own mm (bmm in attention) takes for all of them.
class Products {
 public:
  Products(const model::ModelSpec& spec, int64_t batch, int64_t length);
  double ForwardSeconds() const;   // of a forward pass
  double TrainingSeconds() const;  // and of the gradients of inputs and weights
  double ForwardGigaflop() const { return forward_flop_ * 1e-9; }

 private:
  struct Shape {
    torch::Tensor x, weight, gradient;
    int64_t count;
    bool batched;
  };
  double Time(bool backward) const;
  std::vector<Shape> shapes_;
  double forward_flop_ = 0;
};

// Forward and training step of the decoder in turns with its products alone, and with the same model in Python.
std::vector<Row> MeasureSpeed(const ModelsOptions& options);

// Loading a checkpoint in turns with reading the file.
std::vector<Row> MeasureLoading(const ModelsOptions& options, const std::filesystem::path& self);
// What a child process of MeasureLoading does; prints its figures.
void LoadOnce(const std::filesystem::path& folder, const std::string& form, int threads);

// Peak memory of LoRA on a frozen bfloat16 base beside that of full fine-tuning in float32.
std::vector<Row> MeasureMemory(const ModelsOptions& options, const std::filesystem::path& self);
void TrainOnce(const std::string& kind, const ModelsOptions& options);

// Runs this program with the arguments and gives the numbers of the line that it prints.
std::vector<double> NumbersOf(const std::filesystem::path& self, const std::vector<std::string>& arguments);

}  // namespace heddle::bench
