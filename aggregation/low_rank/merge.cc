#include "aggregation/low_rank/merge.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "aggregation/low_rank/linear_algebra.h"
#include "common/assert.h"

namespace heddle::aggregation::low_rank {
namespace {

// Singular values below this part of the largest are what float32 makes of zero.
constexpr double kNoise = 0x1p-26;

// to += factor * from, element by element of the first columns.
void AddScaled(Matrix* to, const Matrix& from, double factor) {
  for (size_t i = 0; i < from.rows() * from.cols(); ++i) to->data()[i] += factor * from.data()[i];
}

double Length(std::span<const double> column) {
  double squares = 0;
  for (const double x : column) squares += x * x;
  return std::sqrt(squares);
}

// to = factor * (from - mean)
void Centred(std::span<const double> from, std::span<const double> mean, double factor, std::span<double> to) {
  for (size_t i = 0; i < to.size(); ++i) to[i] = factor * (from[i] - mean[i]);
}

// A sum of products, of so many columns in all: side by side, or where that would be wider than the layer's smaller
// side, the sum itself beside an identity (see WeightedSum).
class Gathered {
 public:
  Gathered(const FactorPair& pair, size_t columns)
      : side_(std::min(pair.d, pair.k)),
        by_left_(pair.d <= pair.k),
        dense_(columns > side_),
        sum_{Matrix(pair.d, std::min(columns, side_)), Matrix(pair.k, std::min(columns, side_))} {
    if (!dense_) return;
    Matrix& identity = by_left_ ? sum_.left : sum_.right;
    for (size_t i = 0; i < side_; ++i) identity(i, i) = 1;
  }

  void Add(const Product& part, double factor) {
    if (dense_) {
      AddProduct(by_left_ ? part.right : part.left, by_left_ ? part.left : part.right, factor,
                 by_left_ ? &sum_.right : &sum_.left);
      return;
    }
    for (size_t n = 0; n < part.rank(); ++n, ++at_) {
      std::ranges::transform(part.left.column(n), sum_.left.column(at_).begin(), [&](double x) { return factor * x; });
      std::ranges::copy(part.right.column(n), sum_.right.column(at_).begin());
    }
  }

  Product Take() && {
    if (!dense_) {
      sum_.left.KeepColumns(at_);
      sum_.right.KeepColumns(at_);
    }
    return std::move(sum_);
  }

 private:
  const size_t side_;
  const bool by_left_, dense_;
  Product sum_;
  size_t at_ = 0;  // columns that are there, side by side
};

// share (B_c - B) (A_c - A) of a device's columns, but for those of which only the rounding of the mean is left,
// squared: a single device's.
Product FromTheMean(const Product& factors, const Product& mean, double share) {
  Product out{Matrix(factors.left.rows(), factors.rank()), Matrix(factors.right.rows(), factors.rank())};
  size_t at = 0;
  for (size_t n = 0; n < factors.rank(); ++n) {
    Centred(factors.left.column(n), mean.left.column(n), share, out.left.column(at));
    Centred(factors.right.column(n), mean.right.column(n), 1, out.right.column(at));
    const double of_mean = share * Length(mean.left.column(n)) * Length(mean.right.column(n));
    if (Length(out.left.column(at)) * Length(out.right.column(at)) > 0x1p-45 * of_mean) ++at;
  }
  out.left.KeepColumns(at);
  out.right.KeepColumns(at);
  return out;
}

// The mean's columns, each times `factors`; those of a factor of zero are left out.
Product Scaled(const Product& mean, const std::vector<double>& factors) {
  Product out{Matrix(mean.left.rows(), mean.rank()), Matrix(mean.right.rows(), mean.rank())};
  size_t at = 0;
  for (size_t n = 0; n < mean.rank(); ++n) {
    if (factors[n] == 0) continue;
    std::ranges::transform(mean.left.column(n), out.left.column(at).begin(), [&](double x) { return factors[n] * x; });
    std::ranges::copy(mean.right.column(n), out.right.column(at).begin());
    ++at;
  }
  out.left.KeepColumns(at);
  out.right.KeepColumns(at);
  return out;
}

}  // namespace

Result<Product> Merge::Factors(size_t device) const {
  Product out{Matrix(pair_.d, rank(device)), Matrix(pair_.k, rank(device))};
  HEDDLE_RETURN_IF_ERROR(store_.Load(device, index_, 0, &out));
  return out;
}

Result<Product> Merge::WeightedSum() const {
  size_t columns = 0;
  for (size_t c = 0; c < size(); ++c) columns += rank(c);
  Gathered sum(pair_, columns);
  for (size_t c = 0; c < size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, Factors(c));
    sum.Add(factors, share(c) * scaling());
  }
  return std::move(sum).Take();
}

Result<Product> Merge::MeanFactors(std::span<const double> weights) const {
  Product mean{Matrix(pair_.d, pair_.rank), Matrix(pair_.k, pair_.rank)};
  for (size_t c = 0; c < size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, Factors(c));
    AddScaled(&mean.left, factors.left, weights[c]);
    AddScaled(&mean.right, factors.right, weights[c]);
  }
  RoundToFloat(&mean);
  return mean;
}

Product Merge::FreshFactors() const {
  HEDDLE_ASSERT(fresh_ != nullptr, "the method declared that it needs fresh factors");
  return ProductOf(fresh_->at(pair_.b_key), fresh_->at(pair_.a_key));
}

void RoundToFloat(Product* product) {
  for (Matrix* factor : {&product->left, &product->right}) {
    for (size_t i = 0; i < factor->rows() * factor->cols(); ++i) {
      factor->data()[i] = static_cast<double>(static_cast<float>(factor->data()[i]));
    }
  }
}

Product Joined(const Product& a, const Product& b) {
  Product out{Matrix(a.left.rows(), a.rank() + b.rank()), Matrix(a.right.rows(), a.rank() + b.rank())};
  const auto join = [](const Matrix& x, const Matrix& y, Matrix* to) {
    std::copy(x.data(), x.data() + x.rows() * x.cols(), to->data());
    std::copy(y.data(), y.data() + y.rows() * y.cols(), to->data() + x.rows() * x.cols());
  };
  join(a.left, b.left, &out.left);
  join(a.right, b.right, &out.right);
  return out;
}

Result<Product> ResidualOfMean(const Merge& merge, const Product& mean) {
  const FactorPair& pair = merge.pair();
  size_t columns = pair.rank;  // of those that lack a column
  for (size_t c = 0; c < merge.size(); ++c) columns += merge.rank(c);
  Gathered sum(pair, columns);
  std::vector<double> lacking(pair.rank);
  for (size_t c = 0; c < merge.size(); ++c) {
    HEDDLE_ASSIGN_OR_RETURN(const Product factors, merge.Factors(c));
    const double share = merge.share(c) * merge.scaling();
    sum.Add(FromTheMean(factors, mean, share), 1);
    for (size_t n = factors.rank(); n < pair.rank; ++n) lacking[n] += share;
  }
  sum.Add(Scaled(mean, lacking), 1);
  return std::move(sum).Take();
}

Product RankFactors(const FactorPair& pair, double scaling, const Product& sum) {
  const Svd svd = TopSingular(sum, pair.rank);
  Product out{Matrix(pair.d, pair.rank), Matrix(pair.k, pair.rank)};
  const std::span<const float> parent_a = pair.a.values<float>();
  for (size_t n = 0; n < pair.rank; ++n) {
    if (n < svd.s.size() && svd.s[n] > kNoise * svd.s[0]) {
      for (size_t i = 0; i < pair.d; ++i) out.left(i, n) = svd.u(i, n) * svd.s[n] / scaling;
      for (size_t j = 0; j < pair.k; ++j) out.right(j, n) = svd.v(j, n);
    } else {
      for (size_t j = 0; j < pair.k; ++j) out.right(j, n) = static_cast<double>(parent_a[n * pair.k + j]);
    }
  }
  RoundToFloat(&out);
  return out;
}

}  // namespace heddle::aggregation::low_rank
