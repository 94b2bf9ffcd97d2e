// The weights that a zeroth-order method trains, moved in place along random directions and back to the same bits:
// there is never a copy of them. What is known of a weight beside its value is the grid of its tensor (grid/grid.h),
// which makes moves exact, and with a mask one bit.
//
//   Mask (Sparse-MeZO; Liu et al., 2402.15751). m_i = 1 when |w_i| is among the smallest of its tensor at the time of
//   Make: exactly ceil(fraction * n) of n elements, of equals those that come first. It is fixed from then on, and the
//   same on every device that starts from the same weights. A masked direction is m * z.
//
// Life cycle: Make rounds the weights to their grids and keeps the spans, whose memory must outlive it and stay where
// it is. One thread at a time. Free of LibTorch.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "zo_optim/direction/direction.h"
#include "zo_optim/grid/grid.h"

namespace heddle::zo {

// A tensor by the name that its direction is drawn by (its key), contiguous float32.
struct TrainedTensor {
  std::string name;
  std::span<float> values;
};

// A direction and what it is multiplied with: the gradient along it, or a step.
struct Term {
  uint64_t seed = 0;
  double scale = 0;
};

class TrainedWeights {
 public:
  // largest_scale: of perturbations, and of the steps that are expected. A step along one of them is cut to
  // Grid::max_scale, which is at least 1/8 and twice that. sparse_fraction: 0 or 1: no mask. Errors: kInvalidArgument
  // when there are no elements, two parameters have one name, a value is not finite, or epsilon or the fraction are out
  // of range.
  static Result<TrainedWeights> Make(std::vector<TrainedTensor> parameters, Distribution distribution,
                                     double largest_scale, double sparse_fraction = 0);

  // w += R(to, z) - R(from, z) for each element, where R is the move rounded to the grid: Shift(s, a, b) and
  // Shift(s, b, a) cancel to the bit, whatever else is moved between them.
  void Shift(uint64_t seed, double from, double to);
  // Shift(term.seed, 0, term.scale) for each term, in one pass over the weights, or back: Shift(term.seed, term.scale,
  // 0). Exactly the inverse of each other.
  void Add(std::span<const Term> terms);
  void Subtract(std::span<const Term> terms);

  // Hands `rule` each block of the weights with the sum over the terms of scale * m z there, and the block's place
  // among `size()` elements. What it leaves in `sum` is then added to the weights, rounded to the grid, where the mask
  // is 1.
  using BlockRule = std::function<void(size_t place, std::span<const float> weights, std::span<float> sum)>;
  void Apply(std::span<const Term> terms, const BlockRule& rule);

  // Of moves; 1 until then. Never changes a bit.
  void SetThreads(unsigned threads) { threads_ = threads; }

  // kOutOfRange when a weight has grown beyond its grid, so that moves are exact no more: training has diverged.
  Status CheckRange() const;

  // m * z of one parameter.
  void FillDirection(uint64_t seed, size_t parameter, std::span<float> out) const;

  uint64_t size() const { return size_; }                // elements
  uint64_t num_trained() const { return num_trained_; }  // of them, with mask 1
  size_t num_parameters() const { return parts_.size(); }
  const TrainedTensor& parameter(size_t i) const { return parts_[i].parameter; }

 private:
  struct Part {
    TrainedTensor parameter;
    uint64_t stream = 0;
    Grid grid;
    std::vector<uint64_t> mask;  // a bit an element; empty: all 1
    bool trained(size_t i) const { return mask.empty() || (mask[i / 64] >> (i % 64) & 1U) != 0; }
  };
  static void MakeMask(double fraction, Part* part);
  void MoveTerms(std::span<const Term> terms, bool back);
  // All of the part's elements, block by block, in threads_ threads where there are many.
  void MovePart(const Part& part, std::span<const SeedMove> moves) const;
  // `weights` are the part's elements from `first` on.
  void MoveBlock(const Part& part, size_t first, std::span<const SeedMove> moves, std::span<float> weights) const;

  std::vector<Part> parts_;
  Distribution distribution_ = Distribution::kNormal;
  uint64_t size_ = 0, num_trained_ = 0;
  unsigned threads_ = 1;
};

}  // namespace heddle::zo
