#include "zo_optim/estimator/trained_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <thread>

namespace heddle::zo {
namespace {

constexpr size_t kBlock = 4096;          // a multiple of what the generator makes at a time
constexpr size_t kPerThread = 1U << 18;  // elements that are worth a thread

}  // namespace

Result<TrainedWeights> TrainedWeights::Make(std::vector<TrainedTensor> parameters, Distribution distribution,
                                            double largest_scale, double sparse_fraction) {
  if (!(sparse_fraction >= 0 && sparse_fraction <= 1)) return InvalidArgument("sparse_fraction must be from 0 to 1");
  TrainedWeights out;
  out.distribution_ = distribution;
  std::set<std::string> names;
  for (TrainedTensor& parameter : parameters) {
    if (!names.insert(parameter.name).second) {
      return InvalidArgument("two trained tensors have the name '" + parameter.name + "'");
    }
    Part part;
    const Result<Grid> grid = Grid::For(parameter.values, largest_scale);
    if (!grid.ok()) return grid.status().Annotate("the trained tensor '" + parameter.name + "'");
    part.grid = *grid;
    part.stream = ParameterStream(parameter.name);
    part.parameter = std::move(parameter);
    if (sparse_fraction > 0 && sparse_fraction < 1) MakeMask(sparse_fraction, &part);
    SnapToGrid(part.grid, part.parameter.values);
    const size_t n = part.parameter.values.size();
    out.size_ += n;
    if (part.mask.empty()) {
      out.num_trained_ += n;
    } else {
      for (const uint64_t word : part.mask) out.num_trained_ += static_cast<uint64_t>(std::popcount(word));
    }
    out.parts_.push_back(std::move(part));
  }
  if (out.size_ == 0) return InvalidArgument("there is no weight to train");
  return out;
}

void TrainedWeights::MakeMask(double fraction, Part* part) {
  const std::span<const float> values = part->parameter.values;
  if (values.empty()) return;
  const auto wanted = static_cast<size_t>(std::ceil(fraction * static_cast<double>(values.size())));
  part->mask.assign((values.size() + 63) / 64, 0);
  if (wanted == 0) return;
  std::vector<float> sizes(values.size());
  std::transform(values.begin(), values.end(), sizes.begin(), [](float w) { return std::abs(w); });
  std::nth_element(sizes.begin(), sizes.begin() + static_cast<ptrdiff_t>(wanted - 1), sizes.end());
  const float bound = sizes[wanted - 1];
  auto equals = wanted - static_cast<size_t>(std::count_if(values.begin(), values.end(),
                                                           [bound](float w) { return std::abs(w) < bound; }));
  for (size_t i = 0; i < values.size(); ++i) {
    const float size = std::abs(values[i]);
    if (size < bound || (size == bound && equals > 0)) {
      if (size == bound) --equals;
      part->mask[i / 64] |= uint64_t{1} << (i % 64);
    }
  }
}

void TrainedWeights::MoveBlock(const Part& part, size_t first, std::span<const SeedMove> moves,
                               std::span<float> weights) const {
  if (part.mask.empty()) {
    MoveManyOnGrid(distribution_, part.stream, moves, first, part.grid, weights);
    return;
  }
  std::array<float, kBlock> before;
  std::copy(weights.begin(), weights.end(), before.begin());
  MoveManyOnGrid(distribution_, part.stream, moves, first, part.grid, weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!part.trained(first + i)) weights[i] = before[i];
  }
}

void TrainedWeights::MovePart(const Part& part, std::span<const SeedMove> moves) const {
  const std::span<float> values = part.parameter.values;
  const auto range = [&](size_t begin, size_t end) {
    for (size_t first = begin; first < end; first += kBlock) {
      MoveBlock(part, first, moves, values.subspan(first, std::min(kBlock, end - first)));
    }
  };
  const size_t threads = std::clamp<size_t>(values.size() / kPerThread, 1, std::max(1U, threads_));
  const size_t share = (values.size() / threads + kBlock - 1) / kBlock * kBlock;
  std::vector<std::jthread> others;
  for (size_t begin = share; begin < values.size(); begin += share) {
    others.emplace_back(range, begin, std::min(begin + share, values.size()));
  }
  range(0, std::min(share, values.size()));
}

void TrainedWeights::Shift(uint64_t seed, double from, double to) {
  for (const Part& part : parts_) {
    const double most = part.grid.max_scale();
    const SeedMove move{
        seed, {static_cast<float>(std::clamp(from, -most, most)), static_cast<float>(std::clamp(to, -most, most))}};
    MovePart(part, {&move, 1});
  }
}

void TrainedWeights::Add(std::span<const Term> terms) { MoveTerms(terms, false); }

void TrainedWeights::Subtract(std::span<const Term> terms) { MoveTerms(terms, true); }

void TrainedWeights::MoveTerms(std::span<const Term> terms, bool back) {
  std::vector<SeedMove> moves(terms.size());
  for (const Part& part : parts_) {
    const double most = part.grid.max_scale();
    for (size_t i = 0; i < terms.size(); ++i) {
      const auto scale = static_cast<float>(std::clamp(terms[i].scale, -most, most));
      moves[i] = {terms[i].seed, back ? zo::Move{scale, 0} : zo::Move{0, scale}};
    }
    MovePart(part, moves);
  }
}

void TrainedWeights::Apply(std::span<const Term> terms, const BlockRule& rule) {
  std::array<float, kBlock> sum;
  size_t place = 0;
  for (Part& part : parts_) {
    const std::span<float> values = part.parameter.values;
    const float unit = part.grid.unit, most = part.grid.range() / 2;
    for (size_t first = 0; first < values.size(); first += kBlock) {
      const size_t n = std::min(kBlock, values.size() - first);
      const std::span<float> block(sum.data(), n), weights = values.subspan(first, n);
      std::fill(block.begin(), block.end(), 0.0F);
      for (const Term& term : terms) {
        AddDirection({distribution_, term.seed, part.stream}, first, static_cast<float>(term.scale), block);
      }
      if (!part.mask.empty()) {
        for (size_t i = 0; i < n; ++i) {
          if (!part.trained(first + i)) block[i] = 0;
        }
      }
      rule(place, weights, block);
      for (size_t i = 0; i < n; ++i) {
        if (!part.trained(first + i)) continue;
        weights[i] += unit * std::nearbyint(std::clamp(block[i], -most, most) / unit);
      }
      place += n;
    }
  }
}

Status TrainedWeights::CheckRange() const {
  for (const Part& part : parts_) {
    const float largest = MaxAbs(part.parameter.values);
    if (largest <= part.grid.range()) continue;  // false for NaN too
    return OutOfRange("the weights of '" + part.parameter.name + "' grew to " + std::to_string(largest) +
                      " while they were trained; a smaller learning_rate or clip_projected_grad may help");
  }
  return OkStatus();
}

void TrainedWeights::FillDirection(uint64_t seed, size_t parameter, std::span<float> out) const {
  const Part& part = parts_[parameter];
  zo::FillDirection({distribution_, seed, part.stream}, 0, out);
  if (part.mask.empty()) return;
  for (size_t i = 0; i < out.size(); ++i) {
    if (!part.trained(i)) out[i] = 0;
  }
}

}  // namespace heddle::zo
