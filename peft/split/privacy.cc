#include "peft/split/privacy.h"

#include <cmath>

#include "common/digest.h"
#include "common/normals.h"
#include "common/random.h"

namespace heddle::peft {

using torch::Tensor;

Tensor ClipSamples(const Tensor& x, const Tensor& segments, double clip_norm) {
  const Tensor squares = x.pow(2).sum(2);  // [rows, length]
  const auto factor = [clip_norm](const Tensor& sums) {
    // The root has no derivative at 0, where the factor is 1.
    return (clip_norm / sums.clamp_min(clip_norm * clip_norm).sqrt());
  };
  if (!segments.defined()) return x * factor(squares.sum(1, true)).unsqueeze(2);
  const int64_t most = segments.max().item<int64_t>() + 1;
  const Tensor sums =
      torch::zeros({x.size(0), most}, squares.options().requires_grad(false)).scatter_add(1, segments, squares);
  return x * factor(sums).gather(1, segments).unsqueeze(2);
}

Tensor StandardNormals(at::IntArrayRef sizes, uint64_t key, uint64_t stream) {
  Tensor out = torch::empty(sizes, torch::kFloat32);
  const PhiloxStream random(key, stream);
  float* values = out.data_ptr<float>();
  const auto count = static_cast<uint64_t>(out.numel());
  for (uint64_t i = 0; i < count; i += 2) {
    const auto [first, second] = NormalPairAt(random, i / 2);
    values[i] = static_cast<float>(first);
    if (i + 1 < count) values[i + 1] = static_cast<float>(second);
  }
  return out;
}

Tensor AddCutNoise(const Tensor& x, double deviation, std::string_view secret, uint64_t session, uint32_t step,
                   uint32_t micro) {
  const Tensor plain = x.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  const std::string_view bytes(static_cast<const char*>(plain.data_ptr()), plain.nbytes());
  const std::string detail =
      std::to_string(step) + "/" + std::to_string(micro) + "/" + Sha256(bytes).ToHex() + "/" + std::string(secret);
  const Tensor noise = StandardNormals(x.sizes(), DeriveSeed(session, "split noise", detail),
                                       DeriveSeed(session, "split noise stream", detail)) *
                       deviation;
  return x + noise.to(x.device(), x.scalar_type());
}

namespace {

// Of a row, without the padding, which depends on what else is in the batch.
Tensor ContentsOf(const model::ModelInput& input, int64_t row) {
  if (input.pixels.defined()) return input.pixels.select(0, row).to(torch::kCPU).contiguous();
  const Tensor ids = input.ids.select(0, row);
  return (input.mask.defined() ? ids.masked_select(input.mask.select(0, row).ne(0)) : ids).to(torch::kCPU).contiguous();
}

}  // namespace

Tensor RandomiseTargets(const Tensor& targets, int64_t labels, double epsilon, std::string_view secret,
                        const model::ModelInput& input) {
  const Tensor before = targets.to(torch::kCPU, torch::kLong).contiguous();
  Tensor out = before.clone();
  // 1 - the probability to stay: of being one of the labels - 1 others.
  const double change = static_cast<double>(labels - 1) / (std::exp(epsilon) + static_cast<double>(labels - 1));
  const int64_t rows = targets.size(0), each = targets.numel() / rows;
  for (int64_t row = 0; row < rows; ++row) {
    const Tensor contents = ContentsOf(input, row);
    Sha256Hasher example;
    example.Update(std::string(secret) + "\n");
    example.Update(std::string_view(static_cast<const char*>(contents.data_ptr()), contents.nbytes()));
    const PhiloxStream random(DeriveSeed(0, "split labels", example.Finish().ToHex()));
    for (int64_t i = 0; i < each; ++i) {
      int64_t& target = out.data_ptr<int64_t>()[row * each + i];
      if (target < 0) continue;
      const auto at = static_cast<uint64_t>(i);
      if (static_cast<double>(random.U64At(2 * at) >> 11U) * 0x1p-53 >= change) continue;
      // A product of 64 bits with less than 2^31: a bias of less than 2^-33.
      const auto others = static_cast<unsigned __int128>(random.U64At(2 * at + 1)) * static_cast<uint64_t>(labels - 1);
      const auto other = static_cast<int64_t>(others >> 64U);
      target = other < target ? other : other + 1;
    }
  }
  return out.to(targets.device());
}

double DistanceCorrelation(const Tensor& a, const Tensor& b) {
  const int64_t n = a.size(0);
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && b.size(0) == n, "distance correlation is of paired rows");
  if (n < 4) return 0;
  const torch::NoGradGuard no_grad;
  const auto count = static_cast<double>(n);
  const auto centred = [count](const Tensor& x) {
    const Tensor wide = x.to(torch::kCPU, torch::kFloat64).contiguous();
    const Tensor d = torch::cdist(wide, wide, 2, /*compute_mode=*/2);  // not by products: small distances matter
    const Tensor rows = d.sum(1) / (count - 2);
    const Tensor out = d - rows.unsqueeze(0) - rows.unsqueeze(1) + d.sum() / ((count - 1) * (count - 2));
    return out.fill_diagonal_(0);
  };
  const Tensor of_a = centred(a), of_b = centred(b);
  const double covariance = (of_a * of_b).sum().item<double>();
  const double variances = of_a.pow(2).sum().item<double>() * of_b.pow(2).sum().item<double>();
  // A spread that is only rounding is none.
  if (variances <= 1e-40 * std::pow(count, 4)) return 0;
  return std::sqrt(std::max(covariance, 0.0) / std::sqrt(variances));
}

}  // namespace heddle::peft
