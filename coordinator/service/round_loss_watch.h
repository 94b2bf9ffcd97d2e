// Whether a run's training loss falls from round to round. A task of few local steps cannot see that its step size is
// ten times too small; the run can.
//
// A run stalls where the newest kRounds losses of committed rounds (all of them, while there are fewer) do not fall by
// more than twice the standard error of the difference of their halves (zo_optim/estimator/loss_watch.h). That is
// looked at every kEvery rounds, so that a loss at the edge does not come and go with each round. A run that has learnt
// what it can looks the same.
//
// A value, one thread at a time. What it says depends on the newest kRounds + kEvery losses and their number only.
#pragma once

#include <cstddef>
#include <deque>
#include <string>

namespace heddle::coordinator {

class RoundLossWatch {
 public:
  static constexpr size_t kRounds = 32, kEvery = 16;

  // The mean training loss of the next committed round; one that is not finite does not count. True where a stall
  // begins, once for each.
  bool Add(double loss);
  bool stalled() const { return stalled_; }
  // What to tell people when Add was true. zeroth_order: the run trains with forward passes only.
  std::string Sentence(bool zeroth_order) const;

 private:
  std::deque<double> losses_;
  size_t count_ = 0;
  bool stalled_ = false;
};

}  // namespace heddle::coordinator
