#include "simulator/world/attack.h"

#include <cmath>
#include <vector>

#include "common/random.h"

namespace heddle::simulator {

void Attack(const std::string& kind, double scale, uint64_t seed, StateDict* update) {
  double squares = 0;
  uint64_t count = 0;
  for (const auto& [name, tensor] : *update) {
    if (tensor.dtype() != DType::kF32) continue;
    for (const float value : tensor.values<float>()) squares += static_cast<double>(value) * static_cast<double>(value);
    count += static_cast<uint64_t>(tensor.numel());
  }
  const double size = count > 0 ? std::sqrt(squares / static_cast<double>(count)) : 0;
  for (auto& [name, tensor] : *update) {
    if (tensor.dtype() != DType::kF32) continue;
    std::vector<float> sent(tensor.values<float>().begin(), tensor.values<float>().end());
    if (kind == "noise") {
      const PhiloxStream random(DeriveSeed(seed, "attack", name));
      const double bound = std::sqrt(3.0) * scale * size;  // the deviation is scale * size
      for (size_t i = 0; i < sent.size(); ++i) {
        sent[i] = static_cast<float>((2 * static_cast<double>(random.UniformAt(i)) - 1) * bound);
      }
    } else {
      for (float& value : sent) value = static_cast<float>(-scale * static_cast<double>(value));
    }
    tensor = Tensor::FromFloats(tensor.shape(), sent);
  }
}

}  // namespace heddle::simulator
