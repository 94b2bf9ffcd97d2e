// What a model's predictions are worth: perplexity, accuracy, F1, Matthews' and Spearman's correlation. Fed batch by
// batch; all but Spearman (which keeps the values) in constant memory. Sums are in float64 and in the order of feeding.
// Objects: not thread-safe; Merge joins what several threads counted. Free of LibTorch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace heddle::model {

// exp of the mean negative log-likelihood in nats a token.
class Perplexity {
 public:
  // `mean_loss` over `tokens` tokens; nothing for 0 tokens.
  void Add(double mean_loss, int64_t tokens);
  void Merge(const Perplexity& other);
  int64_t tokens() const { return tokens_; }
  double loss() const;   // 0 without tokens
  double value() const;  // 1 without tokens

 private:
  double sum_ = 0;
  int64_t tokens_ = 0;
};

// How often each class was true, predicted, and both; and what follows from that. 0 / 0 counts as 0, as scikit-learn
// has it. Memory: three numbers a class.
class ClassCounts {
 public:
  explicit ClassCounts(int64_t num_classes);  // at least 1
  // Both from 0 to num_classes - 1.
  void Add(int64_t truth, int64_t predicted);
  void Merge(const ClassCounts& other);  // of as many classes

  int64_t num_classes() const { return static_cast<int64_t>(truths_.size()); }
  int64_t total() const { return total_; }

  double Accuracy() const;
  // 2 TP / (2 TP + FP + FN) of one class against the rest; of two classes the usual "positive" one is 1.
  double F1(int64_t positive = 1) const;
  // Unweighted mean of F1 over the classes that occur as truth or prediction.
  double MacroF1() const;
  // Matthews' correlation coefficient, -1 to 1; for more than two classes Gorodkin's R_K ("Comparing two K-category
  // assignments by a K-category correlation coefficient", 2004). 0 where either side has one class only.
  double Matthews() const;

 private:
  int64_t total_ = 0;
  std::vector<int64_t> truths_, predictions_, both_;  // of each class
};

// Correlation and error of real-valued predictions.
class Regression {
 public:
  void Add(double truth, double predicted);
  void Merge(const Regression& other);
  int64_t total() const { return static_cast<int64_t>(truths_.size()); }
  double MeanSquaredError() const;
  double Pearson() const;  // 0 where either side is constant
  // Pearson's correlation of the ranks, where equal values share the mean of their ranks.
  double Spearman() const;

 private:
  std::vector<double> truths_, predictions_;
};

// Ranks from 1; equal values get the mean of the ranks they take together. NaN, which a broken model may predict, ranks
// above all numbers.
std::vector<double> MeanRanks(std::span<const double> values);

}  // namespace heddle::model
