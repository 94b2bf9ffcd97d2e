#include "client/worker/few_shot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "client/worker/vote_k.h"
#include "common/assert.h"
#include "common/random.h"

namespace heddle::client {
namespace {

constexpr std::string_view kCount = "heddle.pseudo.num_examples", kExamples = "heddle.pseudo.examples",
                           kLabels = "heddle.pseudo.labels";
constexpr int64_t kRows = 16;  // labelled at a time
constexpr uint32_t kDefaultPool = 1024;

Tensor Integers(const std::vector<int64_t>& values) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kI64, {static_cast<int64_t>(values.size())}}, &bytes);
  std::copy(values.begin(), values.end(), reinterpret_cast<int64_t*>(bytes.data()));
  return out;
}

// The mean of the last layer's rows over what is no padding.
torch::Tensor MeanRow(model::Transformer& network, const HeadBatch& batch) {
  const torch::Tensor hidden = network->Hidden(batch.input).to(torch::kFloat);
  if (!batch.input.mask.defined()) return hidden.mean(1);
  const torch::Tensor mask = batch.input.mask.to(torch::kFloat).unsqueeze(2);
  return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1);
}

// So many places of `sure`, the surest of each class first, then the second of each. The surest of all would be nearly
// all of the class that the model likes best, and what is trained on them makes it like that class better still.
std::vector<int64_t> SurestOfEachClassInTurn(std::vector<std::pair<double, int64_t>> sure,
                                             const std::vector<size_t>& classes, size_t most) {
  std::sort(sure.begin(), sure.end());
  std::map<size_t, int64_t> seen;
  std::vector<std::pair<int64_t, int64_t>> ranked;  // place among its class, place
  for (const auto& [confidence, place] : sure) ranked.emplace_back(seen[classes[static_cast<size_t>(place)]]++, place);
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  ranked.resize(std::min(ranked.size(), most));
  std::vector<int64_t> places;
  for (const auto& [rank, place] : ranked) places.push_back(place);
  return places;
}

}  // namespace

FewShotData::FewShotData(const TaskInput& input, const TaskResources::Base& base,
                         std::shared_ptr<const model::Examples> examples)
    : input_(input), spec_(base.weights->spec), device_(torch::kCPU), examples_(std::move(examples)) {}

Result<std::unique_ptr<FewShotData>> FewShotData::Open(const TaskInput& input, const TaskResources::Base& base,
                                                       TaskResources& resources, const StateDict& personal) {
  const bool labels_itself = input.train.pseudo_labels.has_value();
  const model::ModelSpec& spec = base.weights->spec;
  const bool words = spec.head.task == model::Task::kCausalLm || spec.head.task == model::Task::kMaskedLm;
  if (words && !input.train.prompt) {
    return InvalidArgument(spec.architecture +
                           " has no classes to label with; give [prompt] a pattern and words, or take a model with a "
                           "classifier head (model.num_labels)");
  }
  if (labels_itself && !input.train.rules.correction.empty()) {
    return InvalidArgument("a method that corrects gradients does not go with pseudo-labels");
  }
  ReadingForm form;
  form.some_unlabelled = labels_itself;
  form.prompt = input.train.prompt;
  HEDDLE_ASSIGN_OR_RETURN(
      std::shared_ptr<const model::Examples> examples,
      resources.GetExamples(input.data_path, base, input.train.sequence_length, input.data_fields, form));
  if (examples->num_classes() < 2) return InvalidArgument("pseudo-labels are classes; this model predicts numbers");
  std::unique_ptr<FewShotData> data(new FewShotData(input, base, std::move(examples)));
  for (int64_t i = 0; i < data->examples_->size(); ++i) {
    HEDDLE_ASSIGN_OR_RETURN(const std::optional<double> label, data->examples_->Label(i));
    if (label) data->given_.emplace(i, static_cast<int64_t>(*label));
  }
  if (labels_itself) data->Recall(personal);
  data->Order();
  return data;
}

void FewShotData::Recall(const StateDict& personal) {
  const auto count = personal.find(kCount), examples = personal.find(kExamples), labels = personal.find(kLabels);
  if (count == personal.end() || examples == personal.end() || labels == personal.end()) return;
  const int64_t classes = examples_->num_classes();
  if (count->second.spec() != TensorSpec{DType::kI64, {1}} || examples->second.dtype() != DType::kI64 ||
      labels->second.spec() != TensorSpec{DType::kF32, {examples->second.numel(), classes}} ||
      count->second.values<int64_t>()[0] != examples_->size()) {
    return;
  }
  const auto which = examples->second.values<int64_t>();
  const auto values = labels->second.values<float>();
  for (size_t i = 0; i < which.size(); ++i) {
    if (which[i] < 0 || which[i] >= examples_->size() || given_.contains(which[i])) continue;
    const auto row = values.subspan(i * static_cast<size_t>(classes), static_cast<size_t>(classes));
    pseudo_.emplace(which[i], std::vector<float>(row.begin(), row.end()));
  }
}

void FewShotData::Order() {
  labelled_.clear();
  for (const auto& [index, label] : given_) labelled_.push_back(index);
  for (const auto& [index, label] : pseudo_) labelled_.push_back(index);
  std::sort(labelled_.begin(), labelled_.end());
  position_ = 0;
  if (!labelled_.empty()) {
    order_.emplace(static_cast<int64_t>(labelled_.size()), DeriveSeed(input_.seed, "samples", ""));
  }
}

// The unlabelled examples that are looked at, ascending.
std::vector<int64_t> FewShotData::Pool() const {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < examples_->size(); ++i) {
    if (!given_.contains(i)) all.push_back(i);
  }
  const uint32_t given = input_.train.pseudo_labels->pool;
  const size_t most = given > 0 ? given : kDefaultPool;
  if (all.size() <= most) return all;
  const model::RecordOrder order(static_cast<int64_t>(all.size()), DeriveSeed(input_.seed, "pool", ""));
  std::vector<int64_t> pool;
  for (size_t i = 0; i < most; ++i) pool.push_back(all[static_cast<size_t>(order.At(0, static_cast<int64_t>(i)))]);
  std::sort(pool.begin(), pool.end());
  return pool;
}

Status FewShotData::Label(model::Transformer& network, const ProgressCallback& progress) {
  HEDDLE_ASSERT(input_.train.pseudo_labels.has_value(), "labels are made when the plan says so");
  const PseudoLabelSettings& settings = *input_.train.pseudo_labels;
  torch::NoGradGuard no_grad;
  network->eval();
  pseudo_.clear();
  device_ = network->device();
  const std::vector<int64_t> pool = Pool();
  std::vector<float> embeddings;
  std::vector<std::vector<float>> logits;
  for (size_t begin = 0; begin < pool.size(); begin += kRows) {
    if (progress && !progress(0, input_.train.local_steps, 0)) return Cancelled("the task was interrupted");
    const std::span<const int64_t> rows = std::span(pool).subspan(begin, std::min<size_t>(kRows, pool.size() - begin));
    HEDDLE_ASSIGN_OR_RETURN(const HeadBatch batch, BatchOf(rows));
    const torch::Tensor out = Logits(network, batch).to(torch::kFloat).cpu().contiguous();
    ++forward_passes_;
    for (int64_t row = 0; row < out.size(0); ++row) {
      const float* values = out.data_ptr<float>() + row * out.size(1);
      logits.emplace_back(values, values + out.size(1));
    }
    if (settings.neighbours == 0) continue;
    const torch::Tensor mean = MeanRow(network, batch).cpu().contiguous();
    ++forward_passes_;
    embeddings.insert(embeddings.end(), mean.data_ptr<float>(), mean.data_ptr<float>() + mean.numel());
  }
  std::vector<int64_t> chosen(pool.size());  // places in the pool
  for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = static_cast<int64_t>(i);
  if (settings.neighbours > 0 && !pool.empty()) {
    const size_t most = size_t{std::max(1U, settings.candidates)} * settings.samples;
    chosen = VoteK(embeddings, embeddings.size() / pool.size(), settings.neighbours, most);
  }
  const auto best = [&](int64_t i) -> const std::vector<float>& { return logits[static_cast<size_t>(i)]; };
  std::vector<std::pair<double, int64_t>> sure;  // minus the probability of the choice, place
  std::vector<size_t> choices(pool.size());      // the likeliest class
  std::vector<std::vector<float>> probabilities(pool.size());
  for (const int64_t i : chosen) {
    const auto top = std::max_element(best(i).begin(), best(i).end());
    const double largest = static_cast<double>(*top);
    if (!std::isfinite(largest) || (settings.min_logit && largest < *settings.min_logit)) continue;
    double sum = 0;
    for (const float value : best(i)) sum += std::exp(static_cast<double>(value) - largest);
    sure.emplace_back(-1 / sum, i);
    choices[static_cast<size_t>(i)] = static_cast<size_t>(top - best(i).begin());
    std::vector<float>& label = probabilities[static_cast<size_t>(i)];
    label.assign(best(i).size(), 0.0F);
    for (size_t c = 0; c < label.size(); ++c) {
      const bool choice = best(i).begin() + static_cast<std::ptrdiff_t>(c) == top;
      label[c] = settings.soft ? static_cast<float>(std::exp(static_cast<double>(best(i)[c]) - largest) / sum)
                               : (choice ? 1.0F : 0.0F);
    }
  }
  for (const int64_t i : SurestOfEachClassInTurn(std::move(sure), choices, settings.samples)) {
    pseudo_.emplace(pool[static_cast<size_t>(i)], std::move(probabilities[static_cast<size_t>(i)]));
  }
  Order();
  return OkStatus();
}

Result<HeadBatch> FewShotData::BatchOf(std::span<const int64_t> indices) const {
  HEDDLE_ASSIGN_OR_RETURN(const model::Batch rows, examples_->Rows(indices, input_.seed, 0));
  return ToHeadBatch(rows, spec_).On(device_);
}

Result<std::optional<HeadBatch>> FewShotData::Next() {
  HEDDLE_ASSERT(order_.has_value(), "there is something to train on");
  std::vector<int64_t> indices;
  for (uint32_t i = 0; i < input_.train.batch_size; ++i) {
    indices.push_back(labelled_[static_cast<size_t>(order_->At(position_++))]);
  }
  HEDDLE_ASSIGN_OR_RETURN(HeadBatch batch, BatchOf(indices));
  const int64_t classes = examples_->num_classes();
  torch::Tensor targets = torch::zeros({static_cast<int64_t>(indices.size()), classes});
  for (size_t row = 0; row < indices.size(); ++row) {
    float* values = targets.data_ptr<float>() + static_cast<int64_t>(row) * classes;
    if (const auto given = given_.find(indices[row]); given != given_.end()) {
      values[given->second] = 1;
    } else {
      const std::vector<float>& label = pseudo_.at(indices[row]);
      std::copy(label.begin(), label.end(), values);
    }
  }
  batch.targets = targets.to(device_);
  return std::optional<HeadBatch>(std::move(batch));
}

torch::Tensor FewShotData::Loss(model::Transformer& network, const HeadBatch& batch) const {
  return -(batch.targets * torch::log_softmax(Logits(network, batch).to(torch::kFloat), 1)).sum(1).mean();
}

void FewShotData::Keep(StateDict* personal) const {
  if (!input_.train.pseudo_labels) return;
  std::vector<int64_t> which;
  std::vector<float> labels;
  for (const auto& [index, label] : pseudo_) {
    which.push_back(index);
    labels.insert(labels.end(), label.begin(), label.end());
  }
  personal->insert_or_assign(std::string(kCount), Integers({examples_->size()}));
  personal->insert_or_assign(
      std::string(kLabels), Tensor::FromFloats({static_cast<int64_t>(which.size()), examples_->num_classes()}, labels));
  personal->insert_or_assign(std::string(kExamples), Integers(which));
}

}  // namespace heddle::client
