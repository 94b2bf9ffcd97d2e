#include "aggregation/averaging/server_optimizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "aggregation/averaging/mean_aggregator.h"
#include "aggregation/parallel.h"

namespace heddle::aggregation {
namespace {

constexpr size_t kPart = 1024, kPerThread = 1 << 16;

std::span<float> NewTensor(const TensorSpec& spec, Tensor* tensor) {
  std::span<std::byte> bytes;
  *tensor = Tensor::Allocate(spec, &bytes);
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

class OptimizingAggregator final : public MeanAggregator {
 public:
  using MeanAggregator::MeanAggregator;
  void Use(const ServerOptimizer& optimizer) {
    optimizer_ = optimizer;
    const auto read = [&](const char* name, double* rate) {
      const auto found = options().method.find(name);
      if (found != options().method.end()) *rate = found->second;
    };
    read("server_learning_rate", &rates_.learning_rate);
    read("server_momentum", &rates_.momentum);
    read("beta_1", &rates_.beta_1);
    read("beta_2", &rates_.beta_2);
    read("tau", &rates_.tau);
  }

  // Errors: kInvalidArgument when the state is not of this model.
  Status CheckState() const {
    for (const auto& [name, spec] : update_spec()) {
      HEDDLE_RETURN_IF_ERROR(Remembered(state(), "m." + name, spec).status());
      if (optimizer_.has_v) HEDDLE_RETURN_IF_ERROR(Remembered(state(), "v." + name, spec).status());
    }
    return OkStatus();
  }

 protected:
  Result<RoundModel> Next() override {
    RoundModel made{parent(), {}};
    for (const auto& [name, spec] : update_spec()) {
      HEDDLE_ASSIGN_OR_RETURN(const Tensor* m, Remembered(state(), "m." + name, spec));
      const Tensor* v = nullptr;
      if (optimizer_.has_v) {
        HEDDLE_ASSIGN_OR_RETURN(v, Remembered(state(), "v." + name, spec));
      }
      Tensor x, next_m, next_v;
      const Moments old{m == nullptr ? std::span<const float>() : m->values<float>(),
                        v == nullptr ? std::span<const float>() : v->values<float>()};
      const NewMoments next{NewTensor(spec, &next_m), optimizer_.has_v ? NewTensor(spec, &next_v) : std::span<float>()};
      Move(name, old, next, NewTensor(spec, &x));
      made.model[name] = std::move(x);
      made.state.emplace("m." + name, std::move(next_m));
      if (optimizer_.has_v) made.state.emplace("v." + name, std::move(next_v));
      sums().Release(name);
    }
    return made;
  }

 private:
  struct Moments {
    std::span<const float> m, v;  // empty: the first round
  };
  struct NewMoments {
    std::span<float> m, v;
  };

  void Move(const std::string& name, const Moments& old, const NewMoments& next, std::span<float> out) const {
    const auto from = parent().at(name).values<float>();
    const auto move = [&](size_t begin, size_t end) {
      std::array<double, kPart> means;
      for (; begin < end; begin += kPart) {
        const std::span<double> part = std::span(means).first(std::min(kPart, end - begin));
        sums().Mean(name, begin, part);
        for (size_t i = begin; i < begin + part.size(); ++i) {
          ServerOptimizer::Element element{part[i - begin], old.m.empty() ? 0.0 : static_cast<double>(old.m[i]),
                                           old.v.empty() ? rates_.tau * rates_.tau : static_cast<double>(old.v[i])};
          out[i] = static_cast<float>(static_cast<double>(from[i]) + optimizer_.step(rates_, &element));
          next.m[i] = static_cast<float>(element.m);
          if (optimizer_.has_v) next.v[i] = static_cast<float>(element.v);
        }
      }
    };
    ParallelRanges(out.size(), options().threads, move, kPerThread);
  }

  ServerOptimizer optimizer_{};
  ServerOptimizer::Rates rates_;
};

}  // namespace

Result<std::unique_ptr<Aggregator>> MakeServerOptimizer(const ServerOptimizer& optimizer, const StateDict& parent,
                                                        const AggregatorOptions& options, const StateDict& state) {
  HEDDLE_ASSIGN_OR_RETURN(auto made, MakeMean<OptimizingAggregator>(parent, options, state, {}));
  auto& optimizing = static_cast<OptimizingAggregator&>(*made);
  optimizing.Use(optimizer);
  HEDDLE_RETURN_IF_ERROR(optimizing.CheckState());
  return made;
}

}  // namespace heddle::aggregation
