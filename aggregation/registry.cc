// One line a method.
#include <algorithm>
#include <bit>
#include <cmath>
#include <sstream>

#include "aggregation/aggregator.h"
#include "aggregation/averaging/fed_pep_tao.h"
#include "aggregation/averaging/few_shot.h"
#include "aggregation/averaging/methods.h"
#include "aggregation/clipping.h"
#include "aggregation/fed_avg.h"
#include "aggregation/figures.h"
#include "aggregation/growing/fed_adapter.h"
#include "aggregation/keeping.h"
#include "aggregation/kernels.h"
#include "aggregation/ledger/ledger_model.h"
#include "aggregation/ledger/methods.h"
#include "aggregation/low_rank/methods.h"
#include "aggregation/method.h"
#include "aggregation/parts/sub_models.h"
#include "aggregation/robust/rules.h"
#include "common/config.h"
#include "common/sparse_delta.h"

namespace heddle::aggregation {
namespace {

const std::vector<Method>& Methods() {
  static const std::vector<Method> methods = [] {
    // clang-format off
    std::vector<Method> all = {
        FedAvgMethod(),
        FedAvgMMethod(),
        FedAdagradMethod(),
        FedAdamMethod(),
        FedYogiMethod(),
        FedProxMethod(),
        ScaffoldMethod(),
        FedNovaMethod(),
        FedDynMethod(),
        SpryMethod(),
        FedBptMethod(),
        FedPepTaoMethod(),
        FesMethod(),
        LpFlMethod(),
        FedAdapterMethod(),
        FedBfptMethod(),
        HeteroLayersMethod(),
        FreezeLayersMethod(),
        CoordinateMedianMethod(),
        TrimmedMeanMethod(),
        KrumMethod(),
        MultiKrumMethod(),
        BulyanMethod(),
        GeometricMedianMethod(),
        FoolsGoldMethod(),
        FedKSeedMethod(),
        FedKSeedProMethod(),
        DeComFlMethod(),
        BaffleMethod(),
        FwdLlmMethod(),
        low_rank::FedExLoraMethod(),
        low_rank::FedItMethod(),
        low_rank::FedSaLoraMethod(),
        low_rank::FfaLoraMethod(),
        low_rank::FlexLoraMethod(),
        low_rank::FloraMethod(),
        low_rank::HLoraMethod(),
        low_rank::HetLoraMethod(),
        low_rank::LoraFairMethod(),
        low_rank::RoLoraMethod(),
        low_rank::SLoraMethod(),
    };
    // clang-format on
    std::sort(all.begin(), all.end(), [](const Method& a, const Method& b) { return a.name < b.name; });
    return all;
  }();
  return methods;
}

const Method* Find(std::string_view name) {
  const auto found = std::find_if(Methods().begin(), Methods().end(), [&](const Method& m) { return m.name == name; });
  return found == Methods().end() ? nullptr : &*found;
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& names) {
  const auto nearest = NearestName(word, names);
  return nearest ? "; did you mean '" + *nearest + "'?" : std::string();
}

Result<const Method*> Get(std::string_view name) {
  if (const Method* method = Find(name)) return method;
  return InvalidArgument("there is no aggregation method '" + std::string(name) + "'" +
                         DidYouMean(name, AggregatorNames()));
}

// Those that were given over the defaults.
Result<Settings> Complete(const Method& method, const Settings& given) {
  Settings all;
  std::vector<std::string> names;
  for (const Setting& setting : method.settings) {
    all.emplace(setting.name, setting.value);
    names.emplace_back(setting.name);
  }
  for (const auto& [name, value] : given) {
    const auto declared = std::find_if(method.settings.begin(), method.settings.end(),
                                       [&, &key = name](const Setting& s) { return s.name == key; });
    if (declared == method.settings.end()) {
      return InvalidArgument(std::string(method.name) + " has no setting '" + name + "'; remove it from [strategy]" +
                             DidYouMean(name, names));
    }
    if (!(value >= declared->min && value <= declared->max)) {
      std::ostringstream text;
      text << method.name << "'s " << name << " is " << value << "; it must be from " << declared->min << " to "
           << declared->max;
      return InvalidArgument(text.str());
    }
    if (declared->whole && value != std::floor(value)) {
      return InvalidArgument(std::string(method.name) + "'s " + name + " must be a whole number");
    }
    all[name] = value;
  }
  return all;
}

Status CheckValues(const StateDict& tensors, const char* whose) {
  for (const auto& [name, tensor] : tensors) {
    if (name == kStateDigestName || name == kDenseSeedName || name.starts_with(kLedgerName)) continue;
    if (tensor.dtype() != DType::kF32) {
      return InvalidArgument("the " + std::string(whose) + "'s tensor '" + name + "' is " + tensor.spec().ToString() +
                             "; adapters are F32");
    }
    const auto values = tensor.values<float>();
    if (!std::isfinite(std::bit_cast<float>(BestKernels().max_abs_bits(values.data(), values.size())))) {
      return InvalidArgument("the " + std::string(whose) + "'s tensor '" + name + "' has a value that is not finite");
    }
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeAggregator(std::string_view name, const StateDict& parent,
                                                   const AggregatorOptions& options, const StateDict& state) {
  HEDDLE_ASSIGN_OR_RETURN(const Method* method, Get(name));
  if (parent.empty()) return InvalidArgument("the parent model has no tensors");
  HEDDLE_RETURN_IF_ERROR(CheckValues(parent, "parent"));
  HEDDLE_RETURN_IF_ERROR(CheckValues(state, "state"));
  if (!(options.max_norm >= 0)) return InvalidArgument("max_norm must be a number above 0, or 0 for no bound");
  if (!(options.clip_norm >= 0)) return InvalidArgument("clip_norm must be a number above 0, or 0 for no clipping");
  AggregatorOptions complete = options;
  HEDDLE_ASSIGN_OR_RETURN(complete.method, Complete(*method, options.method));
  StateDict without = parent;
  without.erase(std::string(kStateDigestName));
  EraseFigures(&without);
  StateDict kept = TakeKept(options.kept, &without);
  if (!options.kept.empty() && UpdateSpec(SpecOf(without), {}, 0).empty()) {
    return InvalidArgument("kept names every tensor of the adapter, so nothing would travel");
  }
  HEDDLE_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> made, method->make(without, complete, state));
  if (options.clip_norm > 0) made = MakeClipping(std::move(made), options.clip_norm);
  if (!kept.empty()) made = MakeKeeping(std::move(made), std::move(kept));
  return made;
}

Result<DeviceRules> RulesOf(std::string_view name, const AggregatorOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const Method* method, Get(name));
  AggregatorOptions complete = options;
  HEDDLE_ASSIGN_OR_RETURN(complete.method, Complete(*method, options.method));
  DeviceRules rules = method->rules == nullptr ? DeviceRules{} : method->rules(complete);
  rules.kept.insert(rules.kept.end(), options.kept.begin(), options.kept.end());
  return rules;
}

Result<StateDict> FirstModel(std::string_view name, const StateDict& adapter, const AggregatorOptions& options) {
  HEDDLE_ASSIGN_OR_RETURN(const Method* method, Get(name));
  if (method->begin == nullptr) return adapter;
  AggregatorOptions complete = options;
  HEDDLE_ASSIGN_OR_RETURN(complete.method, Complete(*method, options.method));
  return method->begin(adapter, complete);
}

std::vector<std::string> AggregatorNames() {
  std::vector<std::string> names;
  for (const Method& method : Methods()) names.emplace_back(method.name);
  return names;
}

std::vector<Setting> SettingsOf(std::string_view name) {
  const Method* method = Find(name);
  return method == nullptr ? std::vector<Setting>{} : method->settings;
}

}  // namespace heddle::aggregation
