// The half of RunCore that reads and makes models: what devices start from, what their updates are folded into, and
// what comes out.
#include <algorithm>
#include <cstring>
#include <utility>

#include "aggregation/compression/coded_model.h"
#include "aggregation/ledger/ledger_model.h"
#include "aggregation/rounded_model.h"
#include "common/logging.h"
#include "common/passing.h"
#include "common/safetensors.h"
#include "common/test_hooks.h"
#include "coordinator/service/run_core.h"
#include "protocol/validate.h"

namespace heddle::coordinator {

namespace {

// The digest of the method's state that is named in a model.
Result<Sha256Digest> StateDigestOf(const Tensor& named) {
  const auto bytes = named.bytes();
  return Sha256Digest::FromBytes(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace

aggregation::UpdateInfo UpdateInfoOf(const DeviceView& view, const DeviceId& device, const ReportMetrics& metrics) {
  return {.num_examples = metrics.num_examples,
          .num_steps = metrics.steps,
          .rank = view.rank,
          .device = device.value(),
          .group = view.group.value_or(0),
          .layers = static_cast<uint32_t>(view.layers.size()),
          .first_loss = metrics.first_loss};
}

aggregation::UpdateInfo RunCore::UpdateInfoOf(const AssignmentRecord& assignment) const {
  return coordinator::UpdateInfoOf(recipe_.ViewFor(assignment.device, assignment.round, assignment.layers),
                                   assignment.device, assignment.metrics);
}

Result<Checkpoint> RunCore::MakeView(const Sha256Digest& parent, const DeviceView& of) const {
  HEDDLE_ASSIGN_OR_RETURN(Checkpoint view, MakeFloatView(parent, of));
  if (of.bfloat16) view.tensors = aggregation::RoundedToBfloat16(view.tensors);
  if (of.nnadq > 0) view.tensors = compression::CodedModel(view.tensors, of.nnadq);
  return view;
}

Result<Checkpoint> RunCore::MakeFloatView(const Sha256Digest& parent, const DeviceView& of) const {
  HEDDLE_ASSIGN_OR_RETURN(const StateDict whole, LoadModel(parent));
  if (of.group) return GroupAdapter(whole, material_.adapter_config_json, *of.group);
  HEDDLE_ASSIGN_OR_RETURN(const peft::AdapterConfig config,
                          peft::AdapterConfig::FromJson(material_.adapter_config_json));
  peft::AdapterConfig view = of.rank > 0 ? config.ForRank(of.rank) : config;
  if (of.layers.empty()) return Checkpoint{view.ToJson(), aggregation::DeviceModel(whole, of.rank)};
  const std::vector<int64_t> tuned = std::exchange(view.layers_to_transform, {});
  for (const int64_t layer : of.layers) {
    if (tuned.empty() || std::find(tuned.begin(), tuned.end(), layer) != tuned.end()) {
      view.layers_to_transform.push_back(layer);
    }
  }
  if (view.layers_to_transform.empty()) return InvalidArgument("a device has none of the layers that are tuned");
  const aggregation::SubModel part{of.layers, of.layers, {}};
  return Checkpoint{view.ToJson(), aggregation::GivenTo(part, aggregation::DeviceModel(whole, of.rank))};
}

Result<AdapterBlobs> RunCore::ViewOf(const Sha256Digest& parent, const DeviceView& of) {
  const auto known = views_.find({parent, of});
  if (known != views_.end()) return known->second;
  std::string config = material_.adapter_config_json;
  Sha256Digest model = parent;
  AdapterBlobs out;
  if (UsesSharedSeeds(recipe_.strategy)) {
    HEDDLE_ASSIGN_OR_RETURN(const StateDict whole, LoadModel(parent));
    HEDDLE_ASSIGN_OR_RETURN(out.ledger, LedgerView(whole, &model));
  }
  if (of != DeviceView{}) {
    HEDDLE_ASSIGN_OR_RETURN(Checkpoint view, MakeView(parent, of));
    config = std::move(view.adapter_config_json);
    HEDDLE_RETURN_IF_ERROR(options_.blobs->Put(config).status());
    HEDDLE_ASSIGN_OR_RETURN(model, options_.blobs->Put(SerializeSafetensors(view.tensors)));
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t bytes, options_.blobs->Size(model));
  const Sha256Digest config_digest = Sha256(config);
  published_.insert({config_digest, model});
  out.config = protocol::MakeBlobRef(config_digest, config.size(), "adapter_config.json");
  out.model = protocol::MakeBlobRef(model, bytes, "adapter_model.safetensors");
  return views_[{parent, of}] = std::move(out);
}

// The method keeps the weights of its newest ledger as its state. What else it may have there (scalars of single
// devices that wait for their round) is for no device.
Status RunCore::PublishWeights(const StateDict& parent, const Sha256Digest& ledger) {
  const auto named = parent.find(aggregation::kStateDigestName);
  if (named == parent.end()) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, StateDigestOf(named->second));
  const Result<StateDict> state = LoadModel(digest);
  if (!state.ok()) return OkStatus();  // devices replay
  const auto own = [](const auto& tensor) { return tensor.first.starts_with(aggregation::kOwnPrefix); };
  if (std::any_of(state->begin(), state->end(), own)) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t bytes, options_.blobs->Size(digest));
  published_.insert(digest);
  ledger_weights_[ledger] = {digest, bytes};
  return OkStatus();
}

Result<std::optional<v1::BlobRef>> RunCore::LedgerView(const StateDict& parent, Sha256Digest* start) {
  if (!aggregation::HoldsLedger(parent)) return std::optional<v1::BlobRef>();
  HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger ledger, aggregation::LedgerOf(parent));
  *start = ledger.head.start;
  const auto bytes = parent.find(aggregation::kLedgerName)->second.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest stored, options_.blobs->Put(text));
  published_.insert(stored);
  HEDDLE_RETURN_IF_ERROR(PublishWeights(parent, stored));
  return std::optional(protocol::MakeBlobRef(stored, text.size(), zo::kLedgerFile));
}

Result<Sha256Digest> RunCore::StartOf(const Sha256Digest& parent, const DeviceView& of) const {
  const auto known = views_.find({parent, of});
  if (known != views_.end())
    return protocol::DigestOf(known->second.ledger ? *known->second.ledger : known->second.model);
  if (UsesSharedSeeds(recipe_.strategy)) {
    HEDDLE_ASSIGN_OR_RETURN(const StateDict whole, LoadModel(parent));
    if (aggregation::HoldsLedger(whole)) return Sha256(whole.find(aggregation::kLedgerName)->second.bytes());
  }
  if (of == DeviceView{}) return parent;
  HEDDLE_ASSIGN_OR_RETURN(const Checkpoint view, MakeView(parent, of));
  return Sha256(SerializeSafetensors(view.tensors));
}

Status RunCore::NoteOpen(const AssignmentRecord& assignment, const Sha256Digest& parent) {
  const DeviceView of = recipe_.ViewFor(assignment.device, assignment.round, assignment.layers);
  const Result<Sha256Digest> start = StartOf(parent, of);
  // The device may ask again while it is at work and the model cannot be read: what it was told still holds.
  if (!start.ok() && open_assignments_->Find(assignment.id)) return start.status();
  open_assignments_->Add(assignment, start.ok() ? std::optional(*start) : std::nullopt, of);
  return start.status();
}

// Step by step, in order: an assignment that is given out and closed within one commit is not open afterwards.
void RunCore::NoteOpenAssignments(const Step& step) {
  for (const Effect& effect : step.effects) {
    const auto* assign = std::get_if<AssignEffect>(&effect);
    if (assign == nullptr) continue;
    const AssignmentRecord& given = assign->assignment;
    static_cast<void>(ViewOf(assign->parent, recipe_.ViewFor(given.device, given.round, given.layers)));
    // Where the model cannot be read, the assignment is answered so (On AssignEffect), and a report on it told to wait.
    static_cast<void>(NoteOpen(given, assign->parent));
  }
  for (const Record& record : step.writes) {
    const auto* assignment = std::get_if<AssignmentRecord>(&record);
    if (assignment != nullptr && assignment->state != AssignmentState::kOpen) open_assignments_->Remove(assignment->id);
  }
}

// Of the models, nobody needs more than the next round's and, in the middle of a download, the one before.
void RunCore::PublishAround(const Sha256Digest& parent, const Sha256Digest& model) {
  std::erase_if(views_, [&](const auto& view) { return view.first.first != parent && view.first.first != model; });
  published_ = always_published_;
  published_.insert({parent, model});
  for (const auto& [of, view] : views_) {
    for (const v1::BlobRef* ref : {&view.config, &view.model}) published_.insert(protocol::DigestOf(*ref).value());
    if (view.ledger) published_.insert(protocol::DigestOf(*view.ledger).value());
  }
  std::erase_if(ledger_weights_, [&](const auto& one) { return !published_.contains(one.first); });
  for (const auto& [ledger, weights] : ledger_weights_) published_.insert(weights.digest);
}

// What the method remembered with this model; empty when it remembers nothing.
Result<StateDict> RunCore::LoadState(const StateDict& model) {
  const auto named = model.find(aggregation::kStateDigestName);
  if (named == model.end()) return StateDict{};
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest digest, StateDigestOf(named->second));
  while (states_.size() > 1 && !states_.contains(digest)) states_.erase(states_.begin());
  states_.insert(digest);
  HEDDLE_ASSIGN_OR_RETURN(const auto mapped, MapStart(digest));
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file, ParseSafetensors(mapped->bytes(), mapped));
  return std::move(file.tensors);
}

Result<std::shared_ptr<const MappedFile>> RunCore::MapStart(const Sha256Digest& digest) {
  if (known_.contains(digest)) {
    auto mapped = options_.blobs->Map(digest);
    if (mapped.ok()) return mapped;
  }
  auto mapped = options_.blobs->MapChecked(digest);
  start_lost_ = start_lost_ || mapped.status().code() == Code::kDataLoss || mapped.status().code() == Code::kNotFound;
  return mapped;
}

Result<StateDict> RunCore::LoadModel(const Sha256Digest& digest) const {
  HEDDLE_ASSIGN_OR_RETURN(const auto mapped, options_.blobs->Map(digest));
  HEDDLE_ASSIGN_OR_RETURN(SafetensorsFile file, ParseSafetensors(mapped->bytes(), mapped));
  return std::move(file.tensors);
}

Status RunCore::ResetSum(const Sha256Digest& parent, uint32_t round) {
  if (HEDDLE_PLANTED(kKeepAbandonedSum) && aggregator_ && engine_ && engine_->round()->attempt > 1) return OkStatus();
  aggregator_.reset();  // first, so that two sums are never there at once
  start_lost_ = false;
  HEDDLE_ASSIGN_OR_RETURN(const auto mapped, MapStart(parent));
  HEDDLE_ASSIGN_OR_RETURN(const SafetensorsFile model, ParseSafetensors(mapped->bytes(), mapped));
  std::set<Sha256Digest> known;
  if (aggregation::HoldsLedger(model.tensors)) {
    HEDDLE_ASSIGN_OR_RETURN(const zo::Ledger ledger, aggregation::LedgerOf(model.tensors));
    HEDDLE_RETURN_IF_ERROR(MapStart(ledger.head.start).status());
    known.insert(ledger.head.start);  // the same in every round
  }
  HEDDLE_ASSIGN_OR_RETURN(const StateDict state, LoadState(model.tensors));
  aggregation::AggregatorOptions options = recipe_.AggregatorOf(round);
  options.fresh_adapter = [recipe = recipe_, spec = SpecOf(model.tensors)](uint32_t of) -> Result<StateDict> {
    return FreshAdapter(recipe, spec, of);
  };
  options.scratch = options_.scratch;
  options.parent_digest = parent;
  options.load_model = [this](const Sha256Digest& digest) { return LoadModel(digest); };
  HEDDLE_ASSIGN_OR_RETURN(auto made, aggregation::MakeAggregator(recipe_.strategy, model.tensors, options, state));
  aggregator_ = std::move(made);
  reader_ = std::make_shared<const UpdateReader>(recipe_, round, SpecOf(model.tensors));
  mapped->DropPages();  // it was read to be checked, and is not needed before the commit
  known_ = std::move(known);
  return OkStatus();
}

// From the report that just brought it, from the database, or from the blobs.
Result<StateDict> RunCore::LoadUpdate(const AssignmentRecord& assignment) const {
  const DeviceView view = recipe_.ViewFor(assignment.device, assignment.round, assignment.layers);
  InlineContent content;
  if (const auto taken = contents_.find({assignment.id, assignment.update}); taken != contents_.end()) {
    content = taken->second;
  } else {
    Result<std::string> stored = options_.store->GetSmallUpdate(assignment.id);
    if (!stored.ok() && stored.status().code() != Code::kNotFound) return stored.status();
    if (!stored.ok()) {
      // Just uploaded, it was hashed then.
      HEDDLE_ASSIGN_OR_RETURN(const auto mapped, restoring_ ? options_.blobs->MapChecked(assignment.update)
                                                            : options_.blobs->Map(assignment.update));
      return reader_->Read(mapped->bytes(), mapped, assignment.device, view);
    }
    content = std::make_shared<const std::string>(*std::move(stored));
  }
  return reader_->Read(std::as_bytes(std::span(*content)), content, assignment.device, view);
}

Status RunCore::Fold(const AssignmentRecord& assignment) {
  HEDDLE_RETURN_IF_ERROR(sum_state_);
  HEDDLE_ASSIGN_OR_RETURN(const StateDict update, LoadUpdate(assignment));
  if (HEDDLE_PLANTED(kFoldInOrderOfArrival)) {
    // The later ones weigh more.
    const uint64_t most = recipe_.aggregator.max_num_examples;
    aggregation::UpdateInfo info = UpdateInfoOf(assignment);
    info.num_examples = std::min(most, info.num_examples + aggregator_->num_folded());
    return aggregator_->Fold(update, info);
  }
  return aggregator_->Fold(update, UpdateInfoOf(assignment));
}

Result<Sha256Digest> RunCore::MakeModel() {
  HEDDLE_RETURN_IF_ERROR(sum_state_);
  std::string bytes;
  {
    HEDDLE_ASSIGN_OR_RETURN(aggregation::RoundModel made, std::move(*aggregator_).Finish());
    if (!made.state.empty()) {
      // Durable before the model that names it.
      HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest state, options_.blobs->Put(SerializeSafetensors(made.state)));
      std::span<std::byte> place;
      Tensor digest = Tensor::Allocate({DType::kU8, {Sha256Digest::kSize}}, &place);
      std::memcpy(place.data(), state.raw().data(), place.size());
      known_.insert(state);
      made.model.insert_or_assign(std::string(aggregation::kStateDigestName), std::move(digest));
    }
    bytes = SerializeSafetensors(made.model);
  }
  HEDDLE_ASSIGN_OR_RETURN(const Sha256Digest model, options_.blobs->Put(bytes));
  known_.insert(model);
  return model;
}

void RunCore::SpoilSum(const Status& status, uint32_t round, uint32_t attempt, std::vector<Event>* next,
                       bool for_good) {
  if (!storage_.ok()) return;  // the step has failed already
  Log(Severity::kError, "the sum of a round failed",
      {{"run_id", id().value()}, {"round", round}, {"attempt", attempt}, {"error", status.message()}});
  if (sum_state_.ok()) sum_state_ = status;
  if (MayPass(status.code())) {
    storage_ = status;
    return;
  }
  next->push_back(
      RoundModelFailed{.round = round, .attempt = attempt, .reason = status.message(), .for_good = for_good});
}

void RunCore::On(const ResetSumEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>* next) {
  round_traffic_ = TrafficNow();
  sum_state_ = ResetSum(effect.parent, effect.round);
  if (sum_state_.ok()) return;
  // Without a sum no update can be looked at. Where what it starts from is lost, or does not fit, no attempt has one;
  // anything else may be otherwise the next time.
  const Status status = sum_state_.Annotate("beginning the sum");
  const bool for_good =
      start_lost_ || status.code() == Code::kInvalidArgument || status.code() == Code::kFailedPrecondition;
  if (for_good || MayPass(status.code())) {
    SpoilSum(status, effect.round, effect.attempt, next, for_good);
  } else {
    storage_ = status;
  }
}

void RunCore::On(const FoldEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>* next) {
  const AssignmentRecord& a = effect.assignment;
  if (Status status = Fold(a); !status.ok()) {
    SpoilSum(status.Annotate("folding the update of " + a.device.value()), a.round, a.attempt, next);
  }
  HEDDLE_FAILPOINT(kUpdateFolded);
}

void RunCore::On(const CommitEffect& effect, std::vector<AddressedAnswer>*, std::vector<Event>* next) {
  Result<Sha256Digest> model = MakeModel();
  if (!model.ok()) {
    SpoilSum(model.status(), effect.round, effect.attempt, next);
    return;
  }
  HEDDLE_FAILPOINT(kModelStored);
  published_.insert(*model);
  next->push_back(RoundModelReady{.round = effect.round, .attempt = effect.attempt, .model = *model});
}

}  // namespace heddle::coordinator
