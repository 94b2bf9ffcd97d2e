#include "client/worker/head_data.h"

#include <algorithm>

#include "common/random.h"
#include "model/data/examples.h"

namespace heddle::client {
namespace {

constexpr int64_t kEvaluationRows = 16;

// Windows of a text, in the order of a seed (windows of one length then) or in that of the file.
class Windows final : public HeadBatches {
 public:
  Windows(std::shared_ptr<const model::TextDataset> data, int64_t rows, std::optional<uint64_t> seed)
      : data_(std::move(data)), rows_(rows) {
    if (seed) order_.emplace(data_->num_sequences(), *seed);
  }

  Result<std::optional<HeadBatch>> Next() override {
    int64_t rows = order_ ? rows_ : std::min(rows_, data_->num_sequences() - next_);
    if (rows == 0) return std::optional<HeadBatch>();
    int64_t length = data_->sequence_length();
    if (!order_) {  // a last window that is shorter is a batch of its own
      length = Predicted(next_);
      if (Predicted(next_ + rows - 1) < length) --rows;
    }
    HeadBatch batch;
    batch.input.ids = torch::empty({rows, length}, torch::kInt64);
    batch.targets = torch::empty({rows, length}, torch::kInt64);
    auto* ids = batch.input.ids.data_ptr<int64_t>();
    auto* targets = batch.targets.data_ptr<int64_t>();
    for (int64_t row = 0; row < rows; ++row) {
      const std::span<const int32_t> window = data_->Sequence(order_ ? order_->Next() : next_++);
      std::copy(window.begin(), window.end() - 1, ids + row * length);
      std::copy(window.begin() + 1, window.end(), targets + row * length);
    }
    batch.rows = static_cast<uint64_t>(rows);
    batch.tokens = static_cast<uint64_t>(rows * length);
    batch.counted = rows * length;
    return std::optional<HeadBatch>(std::move(batch));
  }
  uint64_t data_tokens() const override { return static_cast<uint64_t>(data_->num_tokens()); }

 private:
  int64_t Predicted(int64_t window) const { return static_cast<int64_t>(data_->Sequence(window).size()) - 1; }

  std::shared_ptr<const model::TextDataset> data_;
  int64_t rows_, next_ = 0;
  std::optional<model::SampleOrder> order_;  // none: the file's
};

torch::Tensor Copy(const std::vector<int64_t>& values, int64_t rows, int64_t length) {
  return torch::tensor(values, torch::kInt64).view({rows, length});
}

}  // namespace

torch::Tensor Logits(model::Transformer& network, const HeadBatch& batch) {
  const torch::Tensor all = network->forward(batch.input);
  if (!batch.answers.defined()) return all;
  const torch::Tensor rows = torch::arange(all.size(0), batch.answers.options());
  return all.index({rows, batch.answers}).index_select(1, batch.words);
}

torch::Tensor HeadBatches::Loss(model::Transformer& network, const HeadBatch& batch) const {
  return network->Loss(batch.input, batch.targets);
}

HeadBatch ToHeadBatch(const model::Batch& batch, const model::ModelSpec& spec) {
  HeadBatch out;
  out.rows = static_cast<uint64_t>(batch.rows);
  out.tokens = static_cast<uint64_t>(batch.NumTokens());
  const model::TokenBatch& t = batch.tokens;
  const bool prompted = !batch.answers.empty();
  const bool words =
      !prompted && (spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm);
  if (spec.TakesImages()) {
    const model::PatchSpec& p = spec.patches;
    out.input.pixels = torch::tensor(batch.pixels).view({batch.rows, p.channels, p.image_size, p.image_size});
  } else {
    out.input.ids = Copy(t.ids, t.rows, t.length);
    if (std::find(t.mask.begin(), t.mask.end(), 0) != t.mask.end()) out.input.mask = Copy(t.mask, t.rows, t.length);
    if (spec.type_vocab_size > 1) out.input.types = Copy(t.token_types, t.rows, t.length);
    if (spec.causal) {
      out.input.segments = Copy(t.segments, t.rows, t.length);
      out.input.positions = Copy(t.positions, t.rows, t.length);
    }
  }
  if (words) {
    out.targets = Copy(t.targets, t.rows, t.length);
    out.counted = t.NumTargets();
  } else if (spec.num_labels == 1 && !prompted) {
    out.targets = torch::tensor(batch.labels, torch::kFloat64);
  } else {
    out.targets = torch::tensor(batch.labels, torch::kFloat64).to(torch::kInt64);
  }
  if (!words) out.counted = batch.rows;
  if (prompted) {
    out.answers = torch::tensor(batch.answers, torch::kInt64);
    out.words = torch::tensor(batch.words, torch::kInt64);
  }
  return out;
}

namespace {

class Stream final : public HeadBatches {
 public:
  Stream(model::BatchStream stream, model::ModelSpec spec) : stream_(std::move(stream)), spec_(std::move(spec)) {}

  Result<std::optional<HeadBatch>> Next() override {
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<model::Batch> batch, stream_.Next());
    if (!batch) return std::optional<HeadBatch>();
    return std::optional<HeadBatch>(ToHeadBatch(*batch, spec_));
  }
  uint64_t data_tokens() const override { return stream_.document_tokens(); }

 private:
  model::BatchStream stream_;
  model::ModelSpec spec_;
};

Result<bool> IsWindowed(const std::filesystem::path& data, const DataFields& fields, const model::ModelSpec& spec) {
  if (spec.head.task != model::Task::kCausalLm) return false;
  const std::string ending = data.extension().string();
  if (ending == ".csv" || ending == ".tsv") return false;
  if (ending != ".jsonl") return true;  // TextDataset says what is wrong with others
  if (fields.any()) return false;       // it knows the usual names only
  return model::IsRunningText(data);
}

}  // namespace

HeadBatch HeadBatch::On(const torch::Device& device) const {
  HeadBatch out = *this;
  for (torch::Tensor* tensor : {&out.input.ids, &out.input.pixels, &out.input.mask, &out.input.types,
                                &out.input.positions, &out.input.segments, &out.targets, &out.answers, &out.words}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return out;
}

Result<std::unique_ptr<HeadBatches>> TrainingBatches(const TaskInput& input, const TaskResources::Base& base,
                                                     TaskResources& resources) {
  const model::ModelSpec& spec = base.weights->spec;
  const TrainSettings& train = input.train;
  const uint64_t seed = DeriveSeed(input.seed, "samples", "");
  HEDDLE_ASSIGN_OR_RETURN(const bool windowed, IsWindowed(input.data_path, input.data_fields, spec));
  if (windowed) {
    HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::TextDataset> data,
                            resources.GetData(input.data_path, base, train.sequence_length));
    return std::unique_ptr<HeadBatches>(std::make_unique<Windows>(std::move(data), train.batch_size, seed));
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::Examples> examples,
                          resources.GetExamples(input.data_path, base, train.sequence_length, input.data_fields));
  auto stream = model::BatchStream::Training(std::move(examples), train.batch_size, seed);
  return std::unique_ptr<HeadBatches>(std::make_unique<Stream>(std::move(stream), spec));
}

Result<std::unique_ptr<HeadBatches>> EvaluationBatches(const std::filesystem::path& data, uint32_t sequence_length,
                                                       const TaskResources::Base& base, TaskResources& resources,
                                                       const DataFields& fields,
                                                       const std::optional<PromptSettings>& prompt,
                                                       model::LastWindow last) {
  const model::ModelSpec& spec = base.weights->spec;
  HEDDLE_ASSIGN_OR_RETURN(const bool windowed, IsWindowed(data, fields, spec));
  if (windowed && !prompt) {
    HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::TextDataset> dataset,
                            resources.GetData(data, base, sequence_length, last));
    return std::unique_ptr<HeadBatches>(std::make_unique<Windows>(std::move(dataset), kEvaluationRows, std::nullopt));
  }
  HEDDLE_ASSIGN_OR_RETURN(std::shared_ptr<const model::Examples> examples,
                          resources.GetExamples(data, base, sequence_length, fields, {false, prompt}));
  auto stream = model::BatchStream::Pass(std::move(examples), kEvaluationRows);
  return std::unique_ptr<HeadBatches>(std::make_unique<Stream>(std::move(stream), spec));
}

}  // namespace heddle::client
