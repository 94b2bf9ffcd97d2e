// heddle_bench_models: real model sizes. `speed`, `load` and `memory` print [{id, value, note}] or, with --text, lines.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <sstream>

#include "bench_models.h"
#include "common/file.h"
#include "common/subprocess.h"
#include "model/memory/tensor_memory.h"

namespace heddle::bench {

std::vector<double> NumbersOf(const std::filesystem::path& self, const std::vector<std::string>& arguments) {
  SubprocessOptions options;
  options.argv = {self.string()};
  options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
  options.pipe_stdout = true;
  Subprocess child = Need(Subprocess::Start(options));
  std::string text;
  char buffer[256];
  for (ssize_t n = 0; (n = ::read(child.stdout_fd(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  if (child.Wait() != 0) throw std::runtime_error("the measuring process failed");
  std::istringstream in(text);
  std::vector<double> numbers;
  for (double x = 0; in >> x;) numbers.push_back(x);
  return numbers;
}

namespace {

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return out + "\"";
}

void Print(const std::vector<Row>& rows, bool text) {
  if (text) {
    for (const Row& row : rows) {
      if (row.skipped) {
        std::printf("%-22s skipped  %s\n", row.id.c_str(), row.note.c_str());
      } else {
        std::printf("%-22s %7.3f  %s\n", row.id.c_str(), row.value, row.note.c_str());
      }
    }
    return;
  }
  std::string out = "[";
  for (const Row& row : rows) {
    char value[32];
    std::snprintf(value, sizeof value, "%.5f", row.value);
    out += std::string(out.size() > 1 ? ",\n " : "") + "{\"id\":" + Quoted(row.id) +
           (row.skipped ? ",\"skipped\":true" : std::string(",\"value\":") + value) + ",\"note\":" + Quoted(row.note) +
           "}";
  }
  std::printf("%s]\n", out.c_str());
}

}  // namespace

int Main(int argc, char** argv) {
  ModelsOptions options;
  bool text = false;
  std::string form = "float32", kind;
  std::filesystem::path folder;
  CLI::App app("Measures models of real sizes.", "heddle_bench_models");
  app.require_subcommand(1);
  const auto common = [&](CLI::App* command) {
    command->add_option("--work", options.work, "scratch folder");
    command->add_option("--turns", options.turns, "measured turns")->check(CLI::Range(1, 1000));
    command->add_option("--threads", options.threads, "compute threads of all sides")->check(CLI::Range(1, 256));
    command->add_option("--batch", options.batch, "sequences")->check(CLI::Range(1, 1024));
    command->add_option("--length", options.length, "tokens a sequence")->check(CLI::Range(8, 4096));
    command->add_option("--megabytes", options.megabytes, "of the file that is loaded")->check(CLI::Range(1, 100000));
    command->add_option("--python", options.python, "the interpreter");
    command->add_flag("--processor-time", by_processor_time,
                      "measure processor time and not the wall's (with one thread)");
    command->add_flag("--text", text, "for people");
  };
  CLI::App* speed = app.add_subcommand("speed", "a decoder beside its matrix products, and beside Python");
  CLI::App* load = app.add_subcommand("load", "a checkpoint beside reading its file");
  CLI::App* memory = app.add_subcommand("memory", "LoRA beside full fine-tuning");
  CLI::App* load_once = app.add_subcommand("load-once", "one load, for `load`");
  CLI::App* train_once = app.add_subcommand("train-once", "one step, for `memory`");
  for (CLI::App* command : {speed, load, memory, load_once, train_once}) common(command);
  load_once->add_option("folder", folder)->required();
  load_once->add_option("--form", form);
  train_once->add_option("kind", kind)->required()->check(CLI::IsMember({"full", "full-checkpointed", "lora"}));
  CLI11_PARSE(app, argc, argv);

  if (load_once->parsed()) {
    LoadOnce(folder, form, options.threads);
    return 0;
  }
  if (train_once->parsed()) {
    TrainOnce(kind, options);
    return 0;
  }
  if (speed->parsed())
    model::UseTensorMemory(
        model::kServerSpare);  // as in the simulator and the tools; a device gives memory back at once
  const bool own = options.work.empty();
  if (own)
    options.work = std::filesystem::temp_directory_path() / ("heddle-bench-models-" + std::to_string(::getpid()));
  Need(MakeDirectories(options.work));
  struct Cleaner {
    std::filesystem::path path;
    ~Cleaner() {
      std::error_code ignored;
      if (!path.empty()) std::filesystem::remove_all(path, ignored);
    }
  } cleaner{own ? options.work : std::filesystem::path()};
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  if (speed->parsed()) Print(MeasureSpeed(options), text);
  if (load->parsed()) Print(MeasureLoading(options, self), text);
  if (memory->parsed()) Print(MeasureMemory(options, self), text);
  return 0;
}

}  // namespace heddle::bench

int main(int argc, char** argv) {
  try {
    return heddle::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "heddle_bench_models: %s\n", error.what());
    return 1;
  }
}
