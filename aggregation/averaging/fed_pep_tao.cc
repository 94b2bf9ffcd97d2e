#include "aggregation/averaging/fed_pep_tao.h"

#include <algorithm>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/figures.h"
#include "aggregation/layer_choice.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kMomentum = "m.";
constexpr const char* kNumLayers = "num_layers";
constexpr std::string_view kFedPepTao = "FedPepTAO";

std::span<float> NewTensor(const TensorSpec& spec, Tensor* tensor) {
  std::span<std::byte> bytes;
  *tensor = Tensor::Allocate(spec, &bytes);
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

class FedPepTao final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

  Status CheckState() const {
    for (const auto& [name, spec] : update_spec()) {
      if (name == kLayerScoresName) continue;
      HEDDLE_RETURN_IF_ERROR(Remembered(state(), std::string(kMomentum) + name, parent().at(name).spec()).status());
    }
    return OkStatus();
  }

 protected:
  Result<RoundModel> Next() override {
    RoundModel made{parent(), {}};
    const LayerChoice choice = LayerChoiceOf(SpecOf(parent()));
    for (const auto& [name, spec] : update_spec()) {
      if (name != kLayerScoresName) HEDDLE_RETURN_IF_ERROR(Move(name, choice, &made));
    }
    if (choice.scoring()) Choose(choice, &made.model);
    return made;
  }

 private:
  // Where what travels of a tensor stands in the whole: its columns, or everything.
  Status Move(const std::string& name, const LayerChoice& choice, RoundModel* made) {
    const Tensor& start = parent().at(name);
    const TensorSpec& sent = update_spec().at(name);
    std::vector<int64_t> columns;
    if (sent != start.spec()) columns = TravellingColumns(choice, start.shape()[1]);
    HEDDLE_ASSIGN_OR_RETURN(const Tensor* old, Remembered(state(), std::string(kMomentum) + name, start.spec()));
    Tensor x, momentum;
    const std::span<float> next = NewTensor(start.spec(), &x), m = NewTensor(start.spec(), &momentum);
    const auto from = start.values<float>();
    std::copy(from.begin(), from.end(), next.begin());
    std::vector<double> means(static_cast<size_t>(*NumElements(sent.shape)));
    sums().Mean(name, 0, means);
    sums().Release(name);
    const double beta = setting("server_momentum"), rate = setting("server_learning_rate");
    for (size_t i = 0; i < means.size(); ++i) {
      size_t at = i;
      if (!columns.empty()) {
        at = i / columns.size() * static_cast<size_t>(start.shape()[1]) +
             static_cast<size_t>(columns[i % columns.size()]);
      }
      const double before = old == nullptr ? 0 : static_cast<double>(old->values<float>()[at]);
      const double after = beta * before + (1 - beta) * means[i];
      m[at] = static_cast<float>(after);
      next[at] = static_cast<float>(static_cast<double>(from[at]) + rate * after);
    }
    made->model[name] = std::move(x);
    made->state.emplace(std::string(kMomentum) + name, std::move(momentum));
    return OkStatus();
  }

  void Choose(const LayerChoice& choice, StateDict* model) {
    std::vector<double> scores(static_cast<size_t>(choice.layers));
    sums().Mean(kLayerScoresName, 0, scores);
    const std::vector<float> told(scores.begin(), scores.end());
    (*model)[std::string(kLayerScoresName)] = Tensor::FromFloats({choice.layers}, told);
    if (options().round < setting("score_rounds")) return;
    const auto count = static_cast<uint32_t>(setting("communicated_layers"));
    const std::vector<int64_t> chosen = ChooseLayers(scores, count);
    for (const int64_t layer : chosen) {
      const float score = told[static_cast<size_t>(layer)];
      (*model)[std::string(kTravelsPrefix) + std::to_string(layer)] = Tensor::FromFloats({1}, std::span(&score, 1));
    }
    SetFigure("communicated_layers", static_cast<double>(chosen.size()), model);
  }
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  if (!parent.contains(kPrefixKey)) {
    return InvalidArgument("FedPepTAO has no prefix to send; take it out of what the recipe keeps on the devices");
  }
  HEDDLE_ASSIGN_OR_RETURN(auto made, MakeMean<FedPepTao>(parent, options, state, {}));
  HEDDLE_RETURN_IF_ERROR(static_cast<FedPepTao&>(*made).CheckState());
  return made;
}

Result<StateDict> Begin(const StateDict& adapter, const AggregatorOptions& options) {
  const auto prefix = adapter.find(kPrefixKey);
  const auto layers = static_cast<int64_t>(options.method.at(kNumLayers));
  if (prefix == adapter.end() || prefix->second.shape().size() != 2 || layers < 1 ||
      prefix->second.shape()[1] % layers != 0) {
    return InvalidArgument("FedPepTAO chooses among the layers of a prefix; set tuning.method = \"prefix-tuning\"");
  }
  StateDict first = adapter;
  const std::vector<float> zeros(static_cast<size_t>(layers), 0.0F);
  first.emplace(kLayerScoresName, Tensor::FromFloats({layers}, zeros));
  return first;
}

}  // namespace

bool ChoosesLayers(std::string_view method) { return method == kFedPepTao; }

AggregatorOptions WithLayers(std::string_view method, AggregatorOptions options, int64_t layers) {
  if (ChoosesLayers(method)) options.method[kNumLayers] = static_cast<double>(layers);
  return options;
}

Method FedPepTaoMethod() {
  return {.name = kFedPepTao,
          .make = Make,
          .settings = {{"server_momentum", "part of the last step that is taken again", 0.9, 0, 0.999999},
                       {"server_learning_rate", "factor of the server's step", 1, 0, 1000},
                       {"score_rounds", "rounds in which all prefixes travel and layers are scored", 1, 1, 1e6, true},
                       {"communicated_layers", "layers whose prefixes travel; 0: those above the widest gap of scores",
                        0, 0, 1024, true},
                       {kNumLayers, "layers of the base model; the recipe finds out by itself", 0, 0, 4096, true}},
          .begin = Begin};
}

}  // namespace heddle::aggregation
