#include "client/worker/task_resources.h"

#include <sys/stat.h>
#include <torch/cuda.h>

namespace heddle::client {

std::string FileIdentity(const std::filesystem::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return "";
  return path.string() + "|" + std::to_string(info.st_ino) + "|" + std::to_string(info.st_size) + "|" +
         std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec);
}

bool DataFields::any() const {
  return !columns.empty() || !text.empty() || !(pair.empty() && label.empty() && prompt.empty() && completion.empty());
}

std::string DataFields::Identity() const {
  std::string out;
  const auto add = [&out](const std::string& name) { out += "|" + std::to_string(name.size()) + ":" + name; };
  for (const auto* list : {&columns, &text}) {
    out += "|" + std::to_string(list->size());
    for (const std::string& name : *list) add(name);
  }
  for (const std::string* name : {&pair, &label, &prompt, &completion}) add(*name);
  return out;
}

std::shared_ptr<TaskResources> MakeTaskResources() { return std::make_shared<TaskResources>(); }

namespace {

std::string IdentityOf(const ReadingForm& form) {
  std::string out = form.some_unlabelled ? "|some" : "|all";
  if (!form.prompt) return out;
  const auto add = [&out](const std::string& text) { out += "|" + std::to_string(text.size()) + ":" + text; };
  add(form.prompt->pattern);
  for (const auto* list : {&form.prompt->words, &form.prompt->label_names}) {
    out += "|" + std::to_string(list->size());
    for (const std::string& text : *list) add(text);
  }
  return out;
}

Result<model::LabelMap> LabelsOfPrompt(const PromptSettings& prompt) {
  const std::vector<std::string>& names = prompt.label_names.empty() ? prompt.words : prompt.label_names;
  if (names.size() != prompt.words.size()) {
    return InvalidArgument("prompt.label_names has " + std::to_string(names.size()) + " entries, prompt.words " +
                           std::to_string(prompt.words.size()) + "; each class has one of both");
  }
  return model::LabelMap::Named(names);
}

Status AddTokenizer(const std::filesystem::path& folder, TaskResources::Base* base) {
  HEDDLE_ASSIGN_OR_RETURN(base->tokenizer, model::Tokenizer::Read(folder));
  const int64_t vocabulary = base->weights->spec.vocab_size;
  if (base->tokenizer->vocab_size() <= vocabulary) return OkStatus();
  return InvalidArgument(folder.string() + ": the tokenizer does not fit the model: it makes ids up to " +
                         std::to_string(base->tokenizer->vocab_size() - 1) +
                         ", the model has embeddings for ids below " + std::to_string(vocabulary) +
                         "; copy the tokenizer of these weights");
}

}  // namespace

Result<TaskResources::Base> TaskResources::GetBase(const std::filesystem::path& folder,
                                                   const model::WeightOptions& options) {
  std::lock_guard lock(mutex_);
  std::string identity;
  for (const char* name :
       {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
        "tokenizer.model", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json"}) {
    identity += FileIdentity(folder / name) + "\n";
  }
  const model::ModelPart& part = options.part;
  std::string form = std::string(model::WeightTypeName(options.type)) + " on " + options.device.str();
  if (part != model::ModelPart()) {
    form += " layers " + std::to_string(part.first_layer) + " to " + std::to_string(part.end_layer) +
            (part.embeddings ? " embeddings" : "") + (part.head ? " head" : "");
    for (const int64_t layer : part.layers) form += " " + std::to_string(layer);
  }
  const bool known = identity == folder_;
  if (auto it = bases_.find(form); known && it != bases_.end()) return it->second;
  Base base;
  HEDDLE_ASSIGN_OR_RETURN(base.weights, model::BaseWeights::Load(folder, options));
  // Other threads' streams may read it from now on.
  if (options.device.is_cuda()) torch::cuda::synchronize();
  base.folder = folder;
  if (known && !bases_.empty()) {
    base.tokenizer = bases_.begin()->second.tokenizer;
  } else if (!base.weights->spec.TakesImages()) {
    HEDDLE_RETURN_IF_ERROR(AddTokenizer(folder, &base));
  }
  if (!known) {  // a worker serves one model at a time: an older one would only hold memory
    bases_.clear();
    data_.clear();
    examples_.clear();
    fronts_.Shrink(0);
    kept_tokens_ = 0;
    folder_ = identity;
    ++serial_;
  }
  base.serial = serial_;
  bases_[form] = base;
  return base;
}

std::shared_ptr<const model::TextDataset> TaskResources::FindData(const std::string& identity) {
  for (auto it = data_.begin(); it != data_.end(); ++it) {
    if (it->identity != identity) continue;
    data_.splice(data_.begin(), data_, it);
    return it->dataset;
  }
  return nullptr;
}

Result<std::shared_ptr<const model::TextDataset>> TaskResources::GetData(const std::filesystem::path& path,
                                                                         const Base& base, uint32_t sequence_length,
                                                                         model::LastWindow last) {
  const std::string identity = FileIdentity(path) + "|" +
                               std::to_string(reinterpret_cast<uintptr_t>(base.tokenizer.get())) + "|" +
                               std::to_string(sequence_length) + (last == model::LastWindow::kShort ? "|short" : "");
  {
    std::lock_guard lock(mutex_);
    if (auto found = FindData(identity)) return found;
  }
  // Unlocked: a long text must not hold up other tasks. Two tasks may both read it; the first to finish is kept.
  auto read = model::TextDataset::Read(path, *base.tokenizer, sequence_length, {}, last);
  if (!read.ok()) return read.status();
  auto dataset = std::make_shared<const model::TextDataset>(*std::move(read));
  std::lock_guard lock(mutex_);
  if (auto found = FindData(identity)) return found;
  data_.push_front({identity, base.tokenizer, dataset});
  kept_tokens_ += static_cast<uint64_t>(dataset->num_tokens());
  while (kept_tokens_ > max_kept_tokens_ && data_.size() > 1) {
    kept_tokens_ -= static_cast<uint64_t>(data_.back().dataset->num_tokens());
    data_.pop_back();
  }
  return dataset;
}

Result<std::shared_ptr<const model::Examples>> TaskResources::GetExamples(const std::filesystem::path& path,
                                                                          const Base& base, uint32_t sequence_length,
                                                                          const DataFields& fields,
                                                                          const ReadingForm& form) {
  const model::ModelSpec& spec = base.weights->spec;
  if (!spec.TakesImages() && (sequence_length == 0 || static_cast<int64_t>(sequence_length) > spec.MaxLength())) {
    return InvalidArgument("sequence_length is " + std::to_string(sequence_length) +
                           ", but must be from 1 to the model's " + std::to_string(spec.MaxLength()));
  }
  const std::string identity = FileIdentity(path) + "|" + std::to_string(base.serial) + "|" +
                               std::to_string(sequence_length) + fields.Identity() + IdentityOf(form);
  // Images are several files, whose changes are not seen.
  const bool keep = !spec.TakesImages();
  const auto find = [&]() -> std::shared_ptr<const model::Examples> {
    for (auto it = examples_.begin(); it != examples_.end(); ++it) {
      if (it->first != identity) continue;
      examples_.splice(examples_.begin(), examples_, it);
      return it->second;
    }
    return nullptr;
  };
  if (keep) {
    std::lock_guard lock(mutex_);
    if (auto found = find()) return found;
  }
  model::Examples::Options options;
  options.max_tokens = std::max<int64_t>(sequence_length, 1);
  options.text.columns = fields.columns;
  options.text.text_fields = fields.text;
  if (!fields.pair.empty()) options.text.pair_field = fields.pair;
  if (!fields.label.empty()) options.text.label_field = fields.label;
  if (!fields.prompt.empty()) options.text.prompt_field = fields.prompt;
  if (!fields.completion.empty()) options.text.completion_field = fields.completion;
  options.text.some_unlabelled = form.some_unlabelled;
  if (form.prompt) {
    HEDDLE_ASSIGN_OR_RETURN(options.prompt,
                            model::Prompt::Make(spec, base.tokenizer, form.prompt->pattern, form.prompt->words));
    HEDDLE_ASSIGN_OR_RETURN(options.text.labels, LabelsOfPrompt(*form.prompt));
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::Examples> examples,
                          model::Examples::Open(spec, base.tokenizer, base.folder, path, std::move(options)));
  if (!keep) return examples;
  std::lock_guard lock(mutex_);
  if (auto found = find()) return found;
  examples_.emplace_front(identity, examples);
  if (examples_.size() > kMaxExamples) examples_.pop_back();
  return examples;
}

}  // namespace heddle::client
