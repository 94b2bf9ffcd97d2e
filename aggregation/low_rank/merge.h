// One module's merge: what the devices' factors of it become. A method of the family is one function of a Merge, and
// MakeMerging (merging.h) makes an Aggregator of it. Internal to low_rank.
//
// B_c and A_c are the factors that device c had after training; p_c is its share of all examples, s the scaling.
// Devices come in the order of their names. A device of a smaller rank has fewer columns; the missing ones count as
// zero.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "aggregation/low_rank/update_store.h"

namespace heddle::aggregation::low_rank {

// What a merge makes of a module. Both in double; the caller rounds them.
struct Merged {
  Product factors;              // the next adapter: left B [d, rank], right transpose(A) [k, rank]
  std::optional<Product> base;  // added to the base, scale 1; nothing: the base stays
};

// Of the module's factors, from the options.
inline double ScalingOf(const AggregatorOptions& options, const FactorPair& pair) {
  return options.scaling_of ? options.scaling_of(pair.path) : options.scaling;
}

class Merge {
 public:
  Merge(const UpdateStore& store, const FactorPair& pair, size_t index, std::span<const double> shares,
        const AggregatorOptions& options, const StateDict* fresh)
      : store_(store),
        pair_(pair),
        index_(index),
        shares_(shares),
        options_(options),
        scaling_(ScalingOf(options, pair)),
        fresh_(fresh) {}

  const FactorPair& pair() const { return pair_; }
  size_t size() const { return store_.size(); }  // devices, at least one
  double scaling() const { return scaling_; }
  double setting(std::string_view name) const { return options_.method.find(name)->second; }
  double share(size_t device) const { return shares_[device]; }
  size_t rank(size_t device) const { return store_.rank(device, index_); }

  // B_c and transpose(A_c), rank(device) columns. Errors: those of the store.
  Result<Product> Factors(size_t device) const;

  // sum p_c s B_c A_c, exactly: the factors side by side, R (d + k) numbers for R columns; or, once R is above
  // min(d, k), the sum itself beside an identity, d k + min(d, k)^2 numbers, which is then the smaller of the two
  // (docs/decisions/0013). So it never has more than min(d, k) columns, whatever the number of devices and their ranks.
  // Errors: those of the store.
  Result<Product> WeightedSum() const;

  // sum w_c B_c and sum w_c A_c, padded with zeros to the model's rank; rounded to float, as devices will get them.
  // Errors: those of the store.
  Result<Product> MeanFactors(std::span<const double> weights) const;
  std::span<const double> shares() const { return shares_; }

  // The parent's factors, and those that devices start from anew (asserted: the method declared that it needs them).
  Product ParentFactors() const { return ProductOf(pair_.b, pair_.a); }
  Product FreshFactors() const;

 private:
  const UpdateStore& store_;
  const FactorPair& pair_;
  size_t index_;
  std::span<const double> shares_;
  const AggregatorOptions& options_;
  double scaling_;
  const StateDict* fresh_;
};

// Every element rounded to float32 and back: what the receiver will compute with.
void RoundToFloat(Product* product);

// a's columns and then b's.
Product Joined(const Product& a, const Product& b);

// sum p_c s B_c A_c - s B A for the means B and A: what averaging factors misses. It is sum p_c s (B_c - B) (A_c - A),
// so it is as small as the devices' disagreement, and factors of it have no large parts that cancel. Columns that a
// device does not have are zero there, so all such devices together add one column: their share times B's and A's own.
// As WeightedSum it has at most min(d, k) columns. Errors: those of the store.
Result<Product> ResidualOfMean(const Merge& merge, const Product& mean);

// The best rank-r approximation of `sum` as factors of scaling s, B = U S / s and A = transpose(V), rounded to float.
// Of directions that nobody trained (a sum of lesser rank) B is zero and A is the parent's row, so that they can be
// trained.
Product RankFactors(const FactorPair& pair, double scaling, const Product& sum);
inline Product RankFactors(const Merge& merge, const Product& sum) {
  return RankFactors(merge.pair(), merge.scaling(), sum);
}

}  // namespace heddle::aggregation::low_rank
