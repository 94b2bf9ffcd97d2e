#include "model/config/rotary.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <numbers>

namespace heddle::model {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

// theta^(-2i/dims) for each pair.
std::vector<double> Plain(double theta, int64_t dims) {
  std::vector<double> out(static_cast<size_t>(dims / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
  }
  return out;
}

void ScaleLlama3(const RotarySpec& r, double trained, std::vector<double>* frequencies) {
  for (double& frequency : *frequencies) {
    const double waves = trained * frequency / kTurn;  // in the trained length
    if (waves < r.low_freq_factor) {
      frequency /= r.factor;
    } else if (waves <= r.high_freq_factor) {
      const double kept = (waves - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
      frequency = (1 - kept) * frequency / r.factor + kept * frequency;
    }
  }
}

void ScaleYarn(const RotarySpec& r, double trained, int64_t dims, std::vector<double>* frequencies) {
  // The (fractional) pair that turns `turns` times in the trained length.
  const auto pair_of = [&](double turns) {
    return static_cast<double>(dims) * std::log(trained / (turns * kTurn)) / (2 * std::log(r.theta));
  };
  double low = pair_of(r.beta_fast), high = pair_of(r.beta_slow);
  if (r.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dims - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double divided = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& frequency = (*frequencies)[i];
    frequency = frequency / r.factor * divided + frequency * (1 - divided);
  }
}

// One of rope_scaling and rope_parameters: older files have the former beside rope_theta, newer ones all in the latter.
void ReadScaling(ConfigReader& reader, std::string_view key, RotarySpec* r) {
  const boost::json::object* object = reader.Object(key);
  if (object == nullptr) return;
  ConfigReader inner(*object);
  std::string type = "default";
  inner.String("type", &type);
  inner.String("rope_type", &type);
  inner.Positive("rope_theta", &r->theta);
  inner.Positive("partial_rotary_factor", &r->fraction);
  inner.Positive("factor", &r->factor);
  inner.Positive("low_freq_factor", &r->low_freq_factor);
  inner.Positive("high_freq_factor", &r->high_freq_factor);
  inner.Positive("beta_fast", &r->beta_fast);
  inner.Positive("beta_slow", &r->beta_slow);
  inner.Positive("attention_factor", &r->attention_factor);
  inner.Bool("truncate", &r->truncate);
  inner.Int("original_max_position_embeddings", &r->original_positions, 1, kMaxPositions);
  if (type == "default") {
    r->scaling = RotaryScaling::kNone;
  } else if (type == "linear") {
    r->scaling = RotaryScaling::kLinear;
  } else if (type == "dynamic") {
    r->scaling = RotaryScaling::kDynamic;
  } else if (type == "llama3") {
    r->scaling = RotaryScaling::kLlama3;
  } else if (type == "yarn") {
    r->scaling = RotaryScaling::kYarn;
    // Two more factors whose quotient is the magnitude; only DeepSeek's models have them.
    if (inner.Has("mscale") || inner.Has("mscale_all_dim")) {
      inner.Fail(Unimplemented("config.json: mscale in " + std::string(key) + " is not supported"));
    }
  } else {
    inner.Fail(Unimplemented("config.json: " + std::string(key) + " of type \"" + type.substr(0, 60) +
                             "\" is not supported; supported are linear, dynamic, llama3 and yarn"));
  }
  if (r->scaling != RotaryScaling::kNone && !inner.Has("factor")) {
    inner.Fail(InvalidArgument("config.json: " + std::string(key) + " lacks factor"));
  }
  reader.Fail(inner.status());
}

}  // namespace

RotaryTable RotaryFrequencies(const ModelSpec& spec, int64_t length) {
  const RotarySpec& r = spec.rotary;
  const int64_t dims = spec.RotaryDims();
  const auto trained =
      static_cast<double>(r.original_positions > 0 ? r.original_positions : spec.max_position_embeddings);
  double theta = r.theta;
  if (r.scaling == RotaryScaling::kDynamic && static_cast<double>(length) > trained && dims > 2) {
    const double grown = r.factor * static_cast<double>(length) / trained - (r.factor - 1);
    theta *= std::pow(grown, static_cast<double>(dims) / static_cast<double>(dims - 2));
  }
  RotaryTable table{Plain(theta, dims), 1.0};
  if (r.scaling == RotaryScaling::kLinear) {
    for (double& frequency : table.frequencies) frequency /= r.factor;
  } else if (r.scaling == RotaryScaling::kLlama3) {
    ScaleLlama3(r, trained, &table.frequencies);
  } else if (r.scaling == RotaryScaling::kYarn) {
    ScaleYarn(r, trained, dims, &table.frequencies);
    table.magnitude = r.attention_factor > 0 ? r.attention_factor : 1.0 + 0.1 * std::log(std::max(r.factor, 1.0));
  }
  return table;
}

void ReadRotary(ConfigReader& reader, ModelSpec* spec) {
  RotarySpec& r = spec->rotary;
  r.on = true;
  // Neighbours as pairs, not halves; positions of several dimensions: names and shapes of the weights are the same.
  reader.Only("rope_interleaved", false);
  reader.Only("use_mrope", false);
  reader.Positive("rope_theta", &r.theta);
  reader.Positive("partial_rotary_factor", &r.fraction);
  ReadScaling(reader, "rope_scaling", &r);
  ReadScaling(reader, "rope_parameters", &r);
  if (r.fraction > 1) reader.Fail(InvalidArgument("config.json: partial_rotary_factor must be at most 1"));
  if (r.scaling != RotaryScaling::kNone && r.factor < 1) {
    reader.Fail(InvalidArgument("config.json: the factor of rotary scaling must be at least 1"));
  }
  if (r.scaling == RotaryScaling::kLlama3 && r.high_freq_factor <= r.low_freq_factor) {
    reader.Fail(InvalidArgument("config.json: high_freq_factor must be above low_freq_factor"));
  }
  if (r.scaling == RotaryScaling::kYarn && r.theta <= 1) {
    reader.Fail(InvalidArgument("config.json: rope_theta must be above 1 with yarn"));
  }
}

}  // namespace heddle::model
