#include "aggregation/privacy/update_privacy.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <new>

#include "common/digest.h"
#include "common/normals.h"

namespace heddle::privacy {
namespace {

constexpr std::string_view kClipWord = "clip:", kNoiseWord = "noise:";

// The shortest text that is read as the same number.
std::string NumberText(double value) {
  std::array<char, 32> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

Result<double> NumberBehind(std::string_view word, std::string_view name, double min, double max) {
  const std::string_view text = word.substr(name.size());
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= min && value <= max)) {
    return InvalidArgument("'" + std::string(word) + "' must be " + std::string(name) + " and a number from " +
                           NumberText(min) + " to " + NumberText(max));
  }
  return value;
}

double NormOf(const StateDict& update) {
  double squares = 0;
  for (const auto& [name, tensor] : update) {
    for (const float value : tensor.values<float>()) squares += static_cast<double>(value) * value;
  }
  return std::sqrt(squares);
}

// Of everything that another release must not share its noise with.
std::string NoiseKey(const StateDict& update, const UpdatePrivacy& how, std::string_view task_secret) {
  Sha256Hasher hasher;
  hasher.Update(std::string(task_secret) + "\n");
  for (const std::string& word : how.Words()) hasher.Update(word + "\n");
  for (const auto& [name, tensor] : update) {
    hasher.Update(name + " " + tensor.spec().ToString() + "\n");
    hasher.Update(tensor.bytes());
  }
  return hasher.Finish().ToHex();
}

// The tensor times `factor`, with noise of that deviation, in double and rounded once; the stream's first numbers.
Tensor Released(const Tensor& tensor, double factor, double deviation, const PhiloxStream& random) {
  std::span<std::byte> bytes;
  Tensor out = Tensor::Allocate(tensor.spec(), &bytes);
  const auto values = tensor.values<float>();
  const auto released = reinterpret_cast<float*>(bytes.data());
  // A power of two, so that dividing by it and multiplying with it are exact.
  const double grid = deviation > 0 ? std::ldexp(1.0, std::ilogb(deviation) - 20) : 0;
  for (size_t i = 0; i < values.size(); i += 2) {
    const auto pair = deviation > 0 ? NormalPairAt(random, i / 2) : std::array<double, 2>{};
    for (size_t j = i; j < std::min(i + 2, values.size()); ++j) {
      const double value = static_cast<double>(values[j]) * factor + deviation * pair[j - i];
      released[j] = static_cast<float>(deviation > 0 ? std::nearbyint(value / grid) * grid : value);
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> UpdatePrivacy::Words() const {
  std::vector<std::string> words;
  if (clip > 0) words.push_back(std::string(kClipWord) + NumberText(clip));
  if (clip > 0 && noise_multiplier > 0) words.push_back(std::string(kNoiseWord) + NumberText(noise_multiplier));
  return words;
}

Result<PlannedUpload> ParseUpload(std::span<const std::string> words) {
  PlannedUpload planned;
  size_t read = 0;
  if (!words.empty() && words[0].starts_with(kClipWord)) {
    HEDDLE_ASSIGN_OR_RETURN(planned.privacy.clip, NumberBehind(words[0], kClipWord, kMinClip, kMaxClip));
    read = 1;
    if (words.size() > 1 && words[1].starts_with(kNoiseWord)) {
      HEDDLE_ASSIGN_OR_RETURN(planned.privacy.noise_multiplier,
                              NumberBehind(words[1], kNoiseWord, kMinNoise, kMaxNoise));
      read = 2;
    }
  }
  planned.rest.assign(words.begin() + static_cast<ptrdiff_t>(read), words.end());
  return planned;
}

std::string TaskSecret(std::string_view device_secret, std::string_view plan) {
  return Sha256("heddle update noise\n" + std::string(device_secret) + "\n" + std::string(plan)).ToHex();
}

Result<StateDict> MakePrivate(const StateDict& update, const UpdatePrivacy& how, std::string_view task_secret) {
  if (!how.on()) return update;
  if (how.noise_multiplier > 0 && task_secret.empty()) {
    return FailedPrecondition(
        "the plan asks for noise on the update, and there is no secret of the device to draw it from");
  }
  for (const auto& [name, tensor] : update) {
    if (tensor.dtype() == DType::kF32) continue;
    return InvalidArgument("the update cannot be clipped: " + name + " is " + tensor.spec().ToString() + ", not F32");
  }
  const double norm = NormOf(update);
  if (!std::isfinite(norm)) return Internal("the update is not finite, so nothing of it is sent");
  const double factor = norm > how.clip ? how.clip / norm : 1;
  const std::string key = how.noise_multiplier > 0 ? NoiseKey(update, how, task_secret) : std::string();
  try {
    StateDict out;
    for (const auto& [name, tensor] : update) {
      const PhiloxStream random(DeriveSeed(0, "update noise", key),
                                DeriveSeed(0, "update noise stream", key + "/" + name));
      out.emplace_hint(out.end(), name, Released(tensor, factor, how.deviation(), random));
    }
    return out;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is no memory for a clipped update");
  }
}

}  // namespace heddle::privacy
