#include "aggregation/averaging/few_shot.h"

#include <algorithm>
#include <string>
#include <utility>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/figures.h"
#include "common/random.h"

namespace heddle::aggregation {
namespace {

constexpr std::string_view kFes = "FeS", kLpFl = "LP-FL";
constexpr double kMost = 1 << 20;   // examples
constexpr double kMostLogit = 1e6;  // and least: no bound
constexpr double kMostNeighbours = 1024;

class FewShot final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;

 protected:
  // What did not train has learnt nothing, whatever else it says.
  Share ShareOf(const UpdateInfo& info) const override { return {info.num_steps > 0 ? info.num_examples : 0}; }
  void Count(const UpdateInfo& info) override { trained_ += info.num_steps > 0 ? 1 : 0; }

  Result<RoundModel> Next() override {
    RoundModel made{parent(), {}};
    SetFigure("devices_with_labels", static_cast<double>(trained_), &made.model);
    if (sums().total_weight() == 0) return made;
    for (const auto& [name, spec] : update_spec()) {
      std::span<std::byte> bytes;
      Tensor out = Tensor::Allocate(spec, &bytes);
      const std::span<float> result(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
      sums().MeanOnto(name, parent().at(name).values<float>(), result);
      made.model[name] = std::move(out);
      sums().Release(name);
    }
    return made;
  }

 private:
  uint64_t trained_ = 0;
};

Result<std::unique_ptr<Aggregator>> Make(const StateDict& parent, const AggregatorOptions& options,
                                         const StateDict& state) {
  return MakeMean<FewShot>(parent, options, state, {});
}

struct Pace {
  double warmup, devices, samples, most, min_logit, soft, curriculum, neighbours;
};

Method FewShotMethod(std::string_view name, const Pace& pace) {
  return {
      .name = name,
      .make = Make,
      .settings = {
          {"warmup_rounds", "rounds on given labels alone, before devices label", pace.warmup, 0, 1e6, true},
          {"infer_every", "rounds from one in which devices label to the next (f)", 1, 1, 1e6, true},
          {"infer_devices", "of the round's devices that label, in the mean (n); 0: all", pace.devices, 0, 1e6, true},
          {"infer_samples", "examples that a device labels at most (k)", pace.samples, 1, kMost, true},
          {"curriculum", "1: k, then 2 k, 3 k, … with each round in which devices label; 0: always k", pace.curriculum,
           0, 1, true},
          {"max_samples", "more than that a device never labels", pace.most, 1, kMost, true},
          {"min_logit", "least logit of a class that is believed; -1e6: any", pace.min_logit, -kMostLogit, kMostLogit},
          {"soft_labels", "1: train on the probabilities; 0: on the most probable class", pace.soft, 0, 1, true},
          {"vote_neighbours", "examples that each one votes for, to find representative ones; 0: no vote",
           pace.neighbours, 0, kMostNeighbours, true},
          {"vote_candidates", "representative examples for each that is labelled, of which the surest are taken", 4, 1,
           kMostNeighbours, true},
          {"infer_pool", "unlabelled examples that a device looks at", 1024, 1, kMost, true}}};
}

}  // namespace

PseudoLabelling LabellingOf(std::string_view method, const AggregatorOptions& options) {
  PseudoLabelling labelling;
  if (method != kFes && method != kLpFl) return labelling;
  Settings settings;
  for (const Setting& setting : SettingsOf(method)) settings.emplace(setting.name, setting.value);
  for (const auto& [name, value] : options.method) settings[name] = value;
  const auto whole = [&](const char* name) { return static_cast<uint32_t>(settings.at(name)); };
  labelling.on = true;
  labelling.soft = settings.at("soft_labels") != 0;
  if (settings.at("min_logit") > -kMostLogit) labelling.min_logit = settings.at("min_logit");
  labelling.neighbours = whole("vote_neighbours");
  labelling.candidates = whole("vote_candidates");
  labelling.pool = whole("infer_pool");
  const uint32_t warmup = whole("warmup_rounds"), every = whole("infer_every");
  if (options.round <= warmup) return labelling;
  const uint64_t past = options.round - warmup - 1, stage = past / every + 1;
  const uint64_t grown = settings.at("curriculum") != 0 ? stage * whole("infer_samples") : whole("infer_samples");
  labelling.samples = static_cast<uint32_t>(std::min<uint64_t>(grown, whole("max_samples")));
  const double devices = settings.at("infer_devices"), cohort = static_cast<double>(options.cohort);
  if (past % every == 0) labelling.share = devices == 0 || cohort == 0 ? 1 : std::min(1.0, devices / cohort);
  return labelling;
}

bool LabelsNow(const PseudoLabelling& labelling, uint64_t run_seed, uint32_t round, std::string_view device) {
  if (!labelling.on || labelling.share <= 0) return false;
  if (labelling.share >= 1) return true;
  const std::string detail = std::to_string(round) + "/" + std::string(device);
  return static_cast<double>(PhiloxStream(DeriveSeed(run_seed, "label", detail)).UniformAt(0)) < labelling.share;
}

Method FesMethod() {
  return FewShotMethod(kFes, {.warmup = 1,
                              .devices = 5,
                              .samples = 5,
                              .most = 100,
                              .min_logit = 0,
                              .soft = 0,
                              .curriculum = 1,
                              .neighbours = 10});
}

Method LpFlMethod() {
  return FewShotMethod(kLpFl, {.warmup = 3,
                               .devices = 0,
                               .samples = 1024,
                               .most = 1024,
                               .min_logit = -kMostLogit,
                               .soft = 1,
                               .curriculum = 0,
                               .neighbours = 0});
}

}  // namespace heddle::aggregation
