// Whether a loss falls: what zeroth-order training is asked first when it does not work, since a step size that is ten
// times too small looks like patience (a well-known complaint about MeZO).
//
// A value, one thread at a time. Free of LibTorch.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace heddle::zo {

class LossWatch {
 public:
  // Losses of steps in their order; those that are not finite do not count.
  void Add(double loss);
  // Whether the mean of the second half lies below that of the first by no more than twice the standard error of their
  // difference, that is, whether nothing is to be seen in the noise of the batches. False while fewer than kEnough.
  bool Stalled() const;
  // Means of the halves; 0 without losses.
  double first_half() const;
  double second_half() const;
  // What to tell people of a loss that has stalled.
  std::string Sentence() const;

  static constexpr size_t kEnough = 16;

 private:
  struct Half {
    double mean = 0, error = 0;  // squared standard error of the mean
  };
  Half Of(size_t begin, size_t end) const;

  std::vector<double> losses_;
};

}  // namespace heddle::zo
