#include "aggregation/clipping.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>
#include <utility>

#include "aggregation/kernels.h"

namespace heddle::aggregation {
namespace {

bool IsControl(const std::string& name) { return name.starts_with(kControlPrefix); }

double NormOf(const StateDict& update, bool of_controls) {
  std::array<double, 8> lanes{};
  for (const auto& [name, tensor] : update) {
    if (IsControl(name) != of_controls) continue;
    const auto values = tensor.values<float>();
    BestKernels().add_squares(values.data(), values.size(), &lanes);
  }
  double squares = 0;
  for (const double lane : lanes) squares += lane;
  return std::sqrt(squares);
}

Tensor Scaled(const Tensor& tensor, double factor) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate(tensor.spec(), &bytes);
  const auto values = tensor.values<float>();
  const auto scaled = reinterpret_cast<float*>(bytes.data());
  for (size_t i = 0; i < values.size(); ++i) scaled[i] = static_cast<float>(static_cast<double>(values[i]) * factor);
  return out;
}

class Clipping final : public Aggregator {
 public:
  Clipping(std::unique_ptr<Aggregator> inner, double clip_norm) : inner_(std::move(inner)), clip_norm_(clip_norm) {}

  Validity Validate(const StateDict& update, const UpdateInfo& info) const override {
    return inner_->Validate(update, info);
  }
  Status Fold(const StateDict& update, const UpdateInfo& info) override {
    // What the inner one refuses because of its tensors is not for us to read.
    for (const auto& [name, tensor] : update) {
      if (tensor.dtype() != DType::kF32) return inner_->Fold(update, info);
    }
    try {
      return inner_->Fold(ClipUpdate(update, clip_norm_), info);
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("there is no memory for a clipped update");
    }
  }
  uint64_t num_folded() const override { return inner_->num_folded(); }
  uint64_t total_examples() const override { return inner_->total_examples(); }
  Result<RoundModel> Finish() && override { return std::move(*inner_).Finish(); }

 private:
  std::unique_ptr<Aggregator> inner_;
  double clip_norm_;
};

}  // namespace

StateDict ClipUpdate(const StateDict& update, double clip_norm) {
  StateDict clipped = update;
  for (const bool of_controls : {false, true}) {
    const double norm = NormOf(update, of_controls);
    if (!(norm > clip_norm)) continue;
    for (auto& [name, tensor] : clipped) {
      if (IsControl(name) == of_controls) tensor = Scaled(tensor, clip_norm / norm);
    }
  }
  return clipped;
}

std::unique_ptr<Aggregator> MakeClipping(std::unique_ptr<Aggregator> inner, double clip_norm) {
  return std::make_unique<Clipping>(std::move(inner), clip_norm);
}

}  // namespace heddle::aggregation
