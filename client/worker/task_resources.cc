#include "client/worker/task_resources.h"

#include <sys/stat.h>

namespace heddle::client {

std::string FileIdentity(const std::filesystem::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return "";
  return path.string() + "|" + std::to_string(info.st_ino) + "|" + std::to_string(info.st_size) + "|" +
         std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec);
}

std::shared_ptr<TaskResources> MakeTaskResources() { return std::make_shared<TaskResources>(); }

Result<TaskResources::Base> TaskResources::GetBase(const std::filesystem::path& folder,
                                                   const model::WeightOptions& options) {
  std::lock_guard lock(mutex_);
  std::string identity;
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"}) {
    identity += FileIdentity(folder / name) + "\n";
  }
  const std::string form = std::string(model::WeightTypeName(options.type)) + " on " + options.device.str();
  const bool known = identity == folder_;
  if (auto it = bases_.find(form); known && it != bases_.end()) return it->second;
  Base base;
  HEDDLE_ASSIGN_OR_RETURN(base.weights, model::BaseWeights::Load(folder, options));
  if (known && !bases_.empty()) {
    base.tokenizer = bases_.begin()->second.tokenizer;
  } else {
    HEDDLE_ASSIGN_OR_RETURN(base.tokenizer, model::Tokenizer::Read(folder));
  }
  int64_t vocabulary = base.weights->spec.vocab_size;
  if (base.tokenizer->vocab_size() > vocabulary) {
    return InvalidArgument(folder.string() + ": the tokenizer does not fit the model: it makes ids up to " +
                           std::to_string(base.tokenizer->vocab_size() - 1) +
                           ", the model has embeddings for ids below " + std::to_string(vocabulary));
  }
  if (!known) {  // a worker serves one model at a time: an older one would only hold memory
    bases_.clear();
    data_.clear();
    kept_tokens_ = 0;
    folder_ = identity;
  }
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
                                                                         const Base& base, uint32_t sequence_length) {
  const std::string identity = FileIdentity(path) + "|" +
                               std::to_string(reinterpret_cast<uintptr_t>(base.tokenizer.get())) + "|" +
                               std::to_string(sequence_length);
  {
    std::lock_guard lock(mutex_);
    if (auto found = FindData(identity)) return found;
  }
  // Unlocked: a long text must not hold up other tasks. Two tasks may both read it; the first to finish is kept.
  auto read = model::TextDataset::Read(path, *base.tokenizer, sequence_length);
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

}  // namespace heddle::client
