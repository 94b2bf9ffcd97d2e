#include "aggregation/ledger/ledger_model.h"

#include <cstring>
#include <new>
#include <utility>

namespace heddle::aggregation {

bool HoldsLedger(const StateDict& model) { return model.contains(kLedgerName); }

Result<zo::Ledger> LedgerOf(const StateDict& model) {
  const auto found = model.find(kLedgerName);
  if (found == model.end() || found->second.dtype() != DType::kU8) {
    return InvalidArgument("the model holds no ledger of directions");
  }
  auto ledger = zo::DecodeLedger(found->second.bytes());
  if (!ledger.ok()) return ledger.status().Annotate("the model's ledger");
  return ledger;
}

Result<Weights> WeightsOf(const StateDict& start, double largest_scale) {
  try {
    Weights weights;
    for (const auto& [name, tensor] : start) {
      if (name.starts_with(kOwnPrefix)) continue;
      // A device trains it as float32 whatever it is kept in, so leaving it out would be another model.
      if (tensor.dtype() == DType::kF16 || tensor.dtype() == DType::kBF16) {
        return InvalidArgument("the tensor '" + name + "' is " + std::string(DTypeName(tensor.dtype())) +
                               "; a ledger of directions is for float32 weights, so convert the adapter to float32");
      }
      if (tensor.dtype() != DType::kF32) continue;
      const auto values = tensor.values<float>();
      weights.memory.emplace_back(values.begin(), values.end());
      HEDDLE_ASSIGN_OR_RETURN(zo::Parameter parameter, zo::MakeParameter(name, weights.memory.back(), largest_scale));
      weights.parameters.push_back(std::move(parameter));
    }
    return weights;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is not enough memory for the trained weights");
  }
}

Result<StateDict> ReplayLedger(const StateDict& start, const zo::Ledger& ledger, unsigned threads) {
  HEDDLE_ASSIGN_OR_RETURN(Weights weights, WeightsOf(start, zo::LargestScale(ledger.head)));
  const zo::Ledger nothing = zo::EmptyLedger(ledger.head);
  const auto moves = zo::MovesBetween(nothing, ledger);
  HEDDLE_RETURN_IF_ERROR(zo::ApplyMoves(ledger.head.distribution, moves, weights.parameters, threads));
  if (zo::DigestOfWeights(weights.parameters) != ledger.weights) {
    return InvalidArgument("the replay of the ledger of round " + std::to_string(ledger.round) +
                           " has not the weights that it names; the start is another one's");
  }
  StateDict adapter;
  for (const zo::Parameter& parameter : weights.parameters) {
    adapter.emplace(parameter.name, Tensor::FromFloats(start.find(parameter.name)->second.shape(), parameter.values));
  }
  return adapter;
}

}  // namespace heddle::aggregation
