#include "aggregation/low_rank/layout.h"

#include "aggregation/device_rules.h"

namespace heddle::aggregation::low_rank {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.", kLoraA = ".lora_A.weight", kLoraB = ".lora_B.weight";

const Tensor* Find(const StateDict& model, const std::string& key) {
  const auto found = model.find(key);
  return found == model.end() ? nullptr : &found->second;
}

// Both shapes are those of one module's factors.
Status CheckShapes(const std::string& a_key, const Tensor& a, const Tensor& b) {
  if (a.shape().size() == 2 && b.shape().size() == 2 && a.shape()[0] == b.shape()[1] && a.shape()[0] > 0) {
    return OkStatus();
  }
  return InvalidArgument("'" + a_key + "' is " + a.spec().ToString() + " and its lora_B " + b.spec().ToString() +
                         "; they must be [r, in] and [out, r]");
}

Status ReadBase(const StateDict& model, FactorPair* pair) {
  const std::string a_key = BaseDeltaA(pair->path);
  const Tensor* a = Find(model, a_key);
  const Tensor* b = Find(model, BaseDeltaB(pair->path));
  if (a == nullptr && b == nullptr) return OkStatus();
  if (a == nullptr || b == nullptr) return InvalidArgument("'" + a_key + "' or its lora_B is missing");
  HEDDLE_RETURN_IF_ERROR(CheckShapes(a_key, *a, *b));
  if (static_cast<size_t>(a->shape()[1]) != pair->k || static_cast<size_t>(b->shape()[0]) != pair->d) {
    return InvalidArgument("'" + a_key + "' does not fit '" + pair->a_key + "'");
  }
  pair->base_a = *a;
  pair->base_b = *b;
  pair->base_rank = static_cast<size_t>(a->shape()[0]);
  return OkStatus();
}

Result<FactorPair> ReadPair(const StateDict& model, const std::string& a_key, const Tensor& a) {
  FactorPair pair;
  pair.path = ModulePath(a_key);
  pair.a_key = a_key;
  pair.b_key = a_key.substr(0, a_key.size() - kLoraA.size()) + std::string(kLoraB);
  const Tensor* b = Find(model, pair.b_key);
  if (b == nullptr) return InvalidArgument("'" + a_key + "' has no '" + pair.b_key + "'");
  HEDDLE_RETURN_IF_ERROR(CheckShapes(a_key, a, *b));
  pair.a = a;
  pair.b = *b;
  pair.rank = static_cast<size_t>(a.shape()[0]);
  pair.k = static_cast<size_t>(a.shape()[1]);
  pair.d = static_cast<size_t>(b->shape()[0]);
  HEDDLE_RETURN_IF_ERROR(ReadBase(model, &pair));
  return pair;
}

}  // namespace

std::string BaseDeltaA(std::string_view path) {
  return std::string(kBaseDeltaPrefix) + std::string(path) + std::string(kLoraA);
}

std::string BaseDeltaB(std::string_view path) {
  return std::string(kBaseDeltaPrefix) + std::string(path) + std::string(kLoraB);
}

std::string ModulePath(std::string_view key) {
  if (key.starts_with(kPeftPrefix)) key.remove_prefix(kPeftPrefix.size());
  for (const std::string_view end : {kLoraA, kLoraB}) {
    if (key.ends_with(end)) key.remove_suffix(end.size());
  }
  return std::string(key);
}

Result<std::vector<FactorPair>> FactorPairs(const StateDict& model) {
  std::vector<FactorPair> pairs;
  size_t halves = 0, deltas = 0, with_base = 0;
  for (const auto& [key, tensor] : model) {
    halves += IsLoraB(key) ? 1 : 0;
    deltas += key.starts_with(kBaseDeltaPrefix) ? 1 : 0;
    if (!IsLoraA(key)) continue;
    HEDDLE_ASSIGN_OR_RETURN(FactorPair pair, ReadPair(model, key, tensor));
    with_base += pair.base_rank > 0 ? 1 : 0;
    pairs.push_back(std::move(pair));
  }
  if (pairs.empty()) {
    return InvalidArgument("the model has no LoRA factors (lora_A, lora_B) to merge; use FedAvg or tune it with LoRA");
  }
  if (halves != pairs.size()) return InvalidArgument("the model has a lora_B without a lora_A");
  if (deltas != 2 * with_base)
    return InvalidArgument("the model has a 'heddle.base_delta' of a module without LoRA factors");
  return pairs;
}

StateDictSpec ExpectedUpdate(const StateDictSpec& model, const DeviceRules& rules, const std::vector<FactorPair>& pairs,
                             const StateDict& update, const UpdateInfo& info) {
  StateDictSpec spec = UpdateSpec(model, rules, info.rank);
  if (rules.prune_gamma == 0) return spec;
  for (const FactorPair& pair : pairs) {
    const auto a = spec.find(pair.a_key), b = spec.find(pair.b_key);
    const auto sent = update.find(pair.a_key);
    if (a == spec.end() || b == spec.end() || sent == update.end() || sent->second.shape().size() != 2) continue;
    const int64_t rows = sent->second.shape()[0];
    if (rows >= 1 && rows < a->second.shape[0]) a->second.shape[0] = b->second.shape[1] = rows;
  }
  return spec;
}

Product ProductOf(const Tensor& b, const Tensor& a) {
  const auto d = static_cast<size_t>(b.shape()[0]), rank = static_cast<size_t>(b.shape()[1]);
  const auto k = static_cast<size_t>(a.shape()[1]);
  const std::span<const float> from_b = b.values<float>(), from_a = a.values<float>();
  Product out{Matrix(d, rank), Matrix(k, rank)};
  for (size_t i = 0; i < d; ++i) {
    for (size_t n = 0; n < rank; ++n) out.left(i, n) = from_b[i * rank + n];
  }
  for (size_t i = 0; i < k * rank; ++i) out.right.data()[i] = from_a[i];
  return out;
}

Tensor LeftTensor(const Product& product) {
  const size_t d = product.left.rows(), rank = product.rank();
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, {static_cast<int64_t>(d), static_cast<int64_t>(rank)}}, &bytes);
  auto* values = reinterpret_cast<float*>(bytes.data());
  for (size_t n = 0; n < rank; ++n) {
    for (size_t i = 0; i < d; ++i) values[i * rank + n] = static_cast<float>(product.left(i, n));
  }
  return out;
}

Tensor RightTensor(const Product& product) {
  const size_t k = product.right.rows(), rank = product.rank();
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate({DType::kF32, {static_cast<int64_t>(rank), static_cast<int64_t>(k)}}, &bytes);
  auto* values = reinterpret_cast<float*>(bytes.data());
  for (size_t i = 0; i < k * rank; ++i) values[i] = static_cast<float>(product.right.data()[i]);
  return out;
}

}  // namespace heddle::aggregation::low_rank
