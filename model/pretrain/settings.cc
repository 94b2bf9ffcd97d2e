#include "model/pretrain/settings.h"

#include <toml++/toml.h>

#include "common/config_words.h"
#include "common/file.h"
#include "model/config/registry.h"

namespace heddle::model {
namespace {

// Typed values of one table; keeps the first mistake.
class TableReader {
 public:
  TableReader(const toml::table* table, std::string name) : table_(table), name_(std::move(name)) {
    if (table_ == nullptr) status_ = InvalidArgument("[" + name_ + "] is missing");
  }
  template <typename T>
  void Get(std::string_view key, T* target) {
    if (!status_.ok()) return;
    const auto value = (*table_)[key].value<T>();
    if (value) {
      *target = *value;
    } else {
      status_ = InvalidArgument(name_ + "." + std::string(key) + " is missing or of the wrong type");
    }
  }
  void GetStrings(std::string_view key, std::vector<std::string>* target, bool required) {
    if (!status_.ok()) return;
    const toml::array* list = (*table_)[key].as_array();
    if (list == nullptr) {
      if (required) status_ = InvalidArgument(name_ + "." + std::string(key) + " must be a list of strings");
      return;
    }
    for (const auto& item : *list) target->push_back(item.value_or(std::string()));
  }
  const Status& status() const { return status_; }

 private:
  const toml::table* table_;
  std::string name_;
  Status status_;
};

Status ReadModel(const toml::table& root, PretrainSettings* settings) {
  TableReader model(root["model"].as_table(), "model");
  ModelSpec& c = settings->model;
  model.Get("name", &settings->name);
  model.Get("description", &settings->description);
  model.Get("licence", &settings->licence);
  model.Get("vocab_size", &settings->vocab_size);
  model.Get("hidden_size", &c.hidden_size);
  model.Get("intermediate_size", &c.intermediate_size);
  model.Get("num_hidden_layers", &c.num_hidden_layers);
  model.Get("num_attention_heads", &c.num_attention_heads);
  model.Get("num_key_value_heads", &c.num_key_value_heads);
  model.Get("head_dim", &c.head_dim);
  model.Get("max_position_embeddings", &c.max_position_embeddings);
  model.Get("rms_norm_eps", &c.norm_eps);
  model.Get("rope_theta", &c.rotary.theta);
  c.tie_word_embeddings = true;
  c.vocab_size = settings->vocab_size;
  c.torch_dtype = "bfloat16";
  HEDDLE_RETURN_IF_ERROR(model.status());
  return ParseModelConfig(LlamaConfigJson(c)).status();  // ranges and divisibility
}

Status ReadTraining(const toml::table& root, PretrainSettings* settings) {
  TableReader train(root["train"].as_table(), "train");
  int64_t seed = 0;
  train.Get("seed", &seed);
  settings->seed = static_cast<uint64_t>(seed);
  train.Get("steps", &settings->steps);
  train.Get("batch_size", &settings->batch_size);
  train.Get("sequence_length", &settings->sequence_length);
  train.Get("warmup_steps", &settings->warmup_steps);
  train.Get("threads", &settings->threads);
  train.Get("checkpoint_seconds", &settings->checkpoint_seconds);
  train.Get("learning_rate", &settings->learning_rate);
  train.Get("final_learning_rate", &settings->final_learning_rate);
  train.Get("weight_decay", &settings->weight_decay);
  train.Get("beta1", &settings->beta1);
  train.Get("beta2", &settings->beta2);
  train.Get("max_grad_norm", &settings->max_grad_norm);
  HEDDLE_RETURN_IF_ERROR(train.status());
  if (settings->steps < 1 || settings->batch_size < 1 || settings->threads < 1 || settings->sequence_length < 1 ||
      settings->sequence_length > settings->model.max_position_embeddings) {
    return InvalidArgument(
        "train: steps, batch_size, threads and sequence_length must be at least 1, and sequence_length "
        "at most max_position_embeddings");
  }
  if (settings->batch_size % settings->threads != 0)
    return InvalidArgument("train: batch_size must be a multiple of threads");
  return OkStatus();
}

Status ReadSources(const toml::table& root, PretrainSettings* settings) {
  const toml::array* sources = root["source"].as_array();
  if (sources == nullptr || sources->empty()) return InvalidArgument("there is no [[source]]");
  for (const auto& item : *sources) {
    TableReader reader(item.as_table(), "source");
    CorpusSource source;
    reader.Get("package", &source.package);
    reader.Get("what", &source.what);
    reader.Get("licence", &source.licence);
    reader.Get("ending", &source.ending);
    reader.Get("format", &source.format);
    reader.GetStrings("paths", &source.paths, true);
    reader.GetStrings("exclude", &source.exclude, false);
    HEDDLE_RETURN_IF_ERROR(reader.status());
    settings->sources.push_back(std::move(source));
  }
  return OkStatus();
}

}  // namespace

Result<PretrainSettings> PretrainSettings::Read(const std::filesystem::path& path) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, size_t{1} << 20));
  if (const size_t line = LineTooDeep(text); line > 0) {
    return InvalidArgument(path.string() + ":" + std::to_string(line) + ": a key has too many parts");
  }
  try {
    const toml::table root = toml::parse(text);
    PretrainSettings settings;
    Status status = ReadModel(root, &settings);
    if (status.ok()) status = ReadTraining(root, &settings);
    if (status.ok()) status = ReadSources(root, &settings);
    if (!status.ok()) return status.Annotate(path.string());
    return settings;
  } catch (const toml::parse_error& e) {
    return InvalidArgument(path.string() + ":" + std::to_string(e.source().begin.line) + ": " +
                           std::string(e.description()));
  }
}

}  // namespace heddle::model
