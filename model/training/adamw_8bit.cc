#include "model/training/adamw_8bit.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model/quant/codes.h"

namespace heddle::model {

using torch::Tensor;

// What a step has in common for all parameters.
struct AdamW8bit::Rates {
  double clip, beta1, beta2, keep, step_size, inverse_root, epsilon;
};

namespace {

constexpr int64_t kBlock = AdamW8bit::kBlock;

uint8_t CodeOfZero(const DynamicCodes& codes) { return codes.Nearest(0.0F); }

// The values that a moment's codes stand for, [blocks, kBlock].
Tensor Unpack(const DynamicCodes& codes, const Tensor& packed, const Tensor& scales) {
  const Tensor table =
      at::tensor(at::ArrayRef<float>(codes.values().data(), codes.values().size()), at::kFloat).to(packed.device());
  return table.index_select(0, packed.to(at::kLong)).view({-1, kBlock}).mul_(scales.unsqueeze(1));
}

void Pack(const DynamicCodes& codes, const Tensor& values, Tensor& packed, Tensor& scales) {
  const Tensor limits =
      at::tensor(at::ArrayRef<float>(codes.boundaries().data(), codes.boundaries().size()), at::kFloat)
          .to(values.device());
  scales = values.abs().amax(1);
  const Tensor normal = values / at::where(scales > 0, scales, at::ones_like(scales)).unsqueeze(1);
  Tensor nearest = at::bucketize(normal.contiguous(), limits);
  if (&codes == &DynamicCodes::Unsigned()) nearest = at::where(values > 0, nearest.clamp_min(1), nearest);
  packed = nearest.to(at::kByte).flatten();
}

struct Block {
  float *p, *m_scale, *v_scale;
  const float* g;  // null: zero
  uint8_t *m_codes, *v_codes;
  int64_t count;
};

}  // namespace

AdamW8bit::AdamW8bit(std::vector<Tensor> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options) {
  for (const Tensor& p : this->parameters()) {
    const int64_t blocks = (p.numel() + kBlock - 1) / kBlock;
    const auto on = at::TensorOptions(p.device());
    const auto zero = [&](const DynamicCodes& codes) {
      return Moment{at::full({blocks * kBlock}, CodeOfZero(codes), on.dtype(at::kByte)),
                    at::zeros({blocks}, on.dtype(at::kFloat))};
    };
    m_.push_back(zero(DynamicCodes::Signed()));
    v_.push_back(zero(DynamicCodes::Unsigned()));
  }
}

uint64_t AdamW8bit::StateBytes() const {
  uint64_t bytes = 0;
  for (const auto* moments : {&m_, &v_}) {
    for (const Moment& moment : *moments) bytes += moment.codes.nbytes() + moment.scales.nbytes();
  }
  return bytes;
}

std::vector<Tensor> AdamW8bit::Moments() const {
  std::vector<Tensor> all;
  for (const auto* moments : {&m_, &v_}) {
    for (const Moment& moment : *moments) all.insert(all.end(), {moment.codes, moment.scales});
  }
  return all;
}

void AdamW8bit::Update(size_t k, const Tensor& gradient, double clip, double learning_rate) {
  const OptimizerOptions& o = options();
  const auto t = static_cast<double>(steps());
  const Rates rates{clip,
                    o.beta1,
                    o.beta2,
                    1.0 - learning_rate * o.weight_decay,
                    learning_rate / (1.0 - std::pow(o.beta1, t)),
                    1.0 / std::sqrt(1.0 - std::pow(o.beta2, t)),
                    o.epsilon};
  if (IsPlain(k)) {
    UpdatePlain(k, gradient, rates);
  } else {
    UpdateByOperators(k, gradient, rates);
  }
}

void AdamW8bit::UpdateByOperators(size_t k, const Tensor& gradient, const Rates& r) {
  Tensor& p = parameters()[k];
  const int64_t padding = m_[k].codes.numel() - p.numel();
  const Tensor flat = gradient.defined() ? gradient.to(at::kFloat).flatten() : at::zeros_like(p, at::kFloat).flatten();
  const Tensor g = at::constant_pad_nd(flat, {0, padding}).view({-1, kBlock}) * r.clip;
  Tensor m = Unpack(DynamicCodes::Signed(), m_[k].codes, m_[k].scales).mul_(r.beta1).add_(g, 1.0 - r.beta1);
  Tensor v = Unpack(DynamicCodes::Unsigned(), v_[k].codes, v_[k].scales).mul_(r.beta2).addcmul_(g, g, 1.0 - r.beta2);
  const Tensor step = m.div(v.sqrt().mul_(r.inverse_root).add_(r.epsilon)).flatten().slice(0, 0, p.numel());
  p.mul_(r.keep).sub_(step.view(p.sizes()).to(p.scalar_type()), r.step_size);
  Pack(DynamicCodes::Signed(), m, m_[k].codes, m_[k].scales);
  Pack(DynamicCodes::Unsigned(), v, v_[k].codes, v_[k].scales);
}

void AdamW8bit::UpdatePlain(size_t k, const Tensor& gradient, const Rates& r) {
  const DynamicCodes &signed_codes = DynamicCodes::Signed(), &unsigned_codes = DynamicCodes::Unsigned();
  const auto b1 = static_cast<float>(r.beta1), b2 = static_cast<float>(r.beta2), clip = static_cast<float>(r.clip);
  const auto keep = static_cast<float>(r.keep), rate = static_cast<float>(r.step_size);
  const auto root = static_cast<float>(r.inverse_root), epsilon = static_cast<float>(r.epsilon);
  const auto update = [&](const Block& b) {
    std::array<float, kBlock> m, v;
    float m_largest = 0, v_largest = 0;
    for (int64_t i = 0; i < b.count; ++i) {
      const float g = b.g != nullptr ? b.g[i] * clip : 0.0F;
      m[i] = b1 * (signed_codes.values()[b.m_codes[i]] * *b.m_scale) + (1.0F - b1) * g;
      v[i] = b2 * (unsigned_codes.values()[b.v_codes[i]] * *b.v_scale) + (1.0F - b2) * g * g;
      b.p[i] = b.p[i] * keep - rate * m[i] / (std::sqrt(v[i]) * root + epsilon);
      m_largest = std::max(m_largest, std::abs(m[i]));
      v_largest = std::max(v_largest, v[i]);
    }
    *b.m_scale = m_largest;
    *b.v_scale = v_largest;
    const float m_unit = m_largest > 0 ? m_largest : 1, v_unit = v_largest > 0 ? v_largest : 1;
    for (int64_t i = 0; i < b.count; ++i) {
      b.m_codes[i] = signed_codes.Nearest(m[i] / m_unit);
      b.v_codes[i] = std::max<uint8_t>(unsigned_codes.Nearest(v[i] / v_unit), v[i] > 0 ? 1 : 0);
    }
  };
  auto* p = parameters()[k].data_ptr<float>();
  const auto* g = gradient.defined() ? gradient.data_ptr<float>() : nullptr;
  auto* m_codes = m_[k].codes.data_ptr<uint8_t>();
  auto* v_codes = v_[k].codes.data_ptr<uint8_t>();
  auto* m_scales = m_[k].scales.data_ptr<float>();
  auto* v_scales = v_[k].scales.data_ptr<float>();
  const int64_t count = parameters()[k].numel();
  at::parallel_for(0, m_[k].scales.numel(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlock;
      update({p + first, m_scales + i, v_scales + i, g == nullptr ? nullptr : g + first, m_codes + first,
              v_codes + first, std::min(kBlock, count - first)});
    }
  });
}

}  // namespace heddle::model
