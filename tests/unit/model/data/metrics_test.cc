// Metrics against brute force in float64 and worked values.
#include "model/metrics/metrics.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>

namespace heddle::model {
namespace {

ClassCounts Count(int64_t classes, const std::vector<int>& truths, const std::vector<int>& predictions) {
  ClassCounts matrix(classes);
  for (size_t i = 0; i < truths.size(); ++i) matrix.Add(truths[i], predictions[i]);
  return matrix;
}

TEST(Perplexity, IsTheExponentialOfTheMeanOverTokens) {
  Perplexity a, b;
  a.Add(2.0, 3);
  a.Add(100.0, 0);
  b.Add(1.0, 1);
  a.Merge(b);
  EXPECT_EQ(a.tokens(), 4);
  EXPECT_DOUBLE_EQ(a.loss(), 7.0 / 4);
  EXPECT_DOUBLE_EQ(a.value(), std::exp(1.75));
  EXPECT_EQ(Perplexity().value(), 1);
}

// Worked by hand: TP 3, FN 1, FP 2, TN 4.
TEST(ClassCounts, AgreesWithAWorkedExample) {
  const auto matrix = Count(2, {1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 0, 1, 1, 0, 0, 0, 0});
  EXPECT_DOUBLE_EQ(matrix.Accuracy(), 0.7);
  EXPECT_DOUBLE_EQ(matrix.F1(), 6.0 / 9);
  EXPECT_DOUBLE_EQ(matrix.F1(0), 8.0 / 11);
  EXPECT_DOUBLE_EQ(matrix.MacroF1(), (6.0 / 9 + 8.0 / 11) / 2);
  EXPECT_NEAR(matrix.Matthews(), (3 * 4 - 2 * 1) / std::sqrt(5.0 * 4 * 6 * 5), 1e-15);
}

TEST(ClassCounts, ExtremesAreWhatTheyShouldBe) {
  EXPECT_EQ(Count(3, {0, 1, 2}, {0, 1, 2}).Matthews(), 1);
  EXPECT_EQ(Count(2, {0, 1}, {1, 0}).Matthews(), -1);
  EXPECT_EQ(Count(2, {0, 1, 1}, {1, 1, 1}).Matthews(), 0);  // one side is constant
  EXPECT_EQ(Count(2, {0, 0}, {0, 0}).F1(), 0);              // nothing positive: 0 / 0
  EXPECT_EQ(Count(2, {0, 0}, {0, 0}).MacroF1(), 1);         // class 1 does not occur
  EXPECT_EQ(ClassCounts(4).Accuracy(), 0);
  EXPECT_EQ(ClassCounts(4).MacroF1(), 0);
}

TEST(ClassCounts, AgreesWithBruteForce) {
  rc::check([] {
    const int classes = *rc::gen::inRange(2, 5);
    const auto pairs = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::pair<int, int>>>(
        rc::gen::pair(rc::gen::inRange(0, classes), rc::gen::inRange(0, classes))));
    ClassCounts matrix(classes), first(classes), second(classes);
    double right = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      matrix.Add(pairs[i].first, pairs[i].second);
      (i % 2 == 0 ? first : second).Add(pairs[i].first, pairs[i].second);
      right += pairs[i].first == pairs[i].second ? 1 : 0;
    }
    first.Merge(second);
    const auto n = static_cast<double>(pairs.size());
    RC_ASSERT(std::abs(matrix.Accuracy() - right / n) < 1e-12);
    RC_ASSERT(std::abs(matrix.Matthews() - first.Matthews()) < 1e-12);
    double macro = 0, present = 0;
    for (int c = 0; c < classes; ++c) {
      double tp = 0, fp = 0, fn = 0;
      for (const auto& [truth, predicted] : pairs) {
        tp += truth == c && predicted == c ? 1 : 0;
        fp += truth != c && predicted == c ? 1 : 0;
        fn += truth == c && predicted != c ? 1 : 0;
      }
      const double precision = tp + fp > 0 ? tp / (tp + fp) : 0, recall = tp + fn > 0 ? tp / (tp + fn) : 0;
      const double f1 = precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
      RC_ASSERT(std::abs(matrix.F1(c) - f1) < 1e-12);
      if (tp + fp + fn > 0) macro += f1, present += 1;
    }
    RC_ASSERT(std::abs(matrix.MacroF1() - macro / present) < 1e-12);
    // R_K as a correlation of indicator vectors, summed over classes: cov(x, y) / sqrt(cov(x, x) cov(y, y)).
    double xy = 0, xx = 0, yy = 0;
    for (int c = 0; c < classes; ++c) {
      double mean_x = 0, mean_y = 0;
      for (const auto& [x, y] : pairs) mean_x += (x == c) / n, mean_y += (y == c) / n;
      for (const auto& [x, y] : pairs) {
        xy += ((x == c) - mean_x) * ((y == c) - mean_y);
        xx += ((x == c) - mean_x) * ((x == c) - mean_x);
        yy += ((y == c) - mean_y) * ((y == c) - mean_y);
      }
    }
    const double expected = xx > 1e-9 && yy > 1e-9 ? xy / std::sqrt(xx * yy) : 0;
    RC_ASSERT(std::abs(matrix.Matthews() - expected) < 1e-9);
  });
}

TEST(MeanRanks, TiesShareTheMeanOfTheirRanks) {
  const double values[] = {10, 30, 20, 30, 10, 30};
  EXPECT_EQ(MeanRanks(values), (std::vector<double>{1.5, 5, 3, 5, 1.5, 5}));
  EXPECT_TRUE(MeanRanks({}).empty());
  std::vector<double> broken(100, std::nan(""));
  for (size_t i = 0; i < broken.size(); i += 3) broken[i] = -static_cast<double>(i);
  EXPECT_EQ(MeanRanks(broken)[99], 1);
  EXPECT_EQ(MeanRanks(broken)[0], 34);
  EXPECT_GT(MeanRanks(broken)[1], 34);
}

// The textbook case without ties: 1 - 6 Σd² / (n (n² - 1)).
TEST(Regression, SpearmanAgreesWithTheFormulaWithoutTies) {
  const double x[] = {106, 100, 86, 101, 99, 103, 97, 113, 112, 110}, y[] = {7, 27, 2, 50, 28, 29, 20, 12, 6, 17};
  Regression all, first, second;
  for (size_t i = 0; i < 10; ++i) {
    all.Add(x[i], y[i]);
    (i < 5 ? first : second).Add(x[i], y[i]);
  }
  EXPECT_NEAR(all.Spearman(), 1 - 6.0 * 194 / 990, 1e-12);
  first.Merge(second);
  EXPECT_DOUBLE_EQ(first.Spearman(), all.Spearman());
}

TEST(Regression, AgreesWithBruteForceAlsoWithTies) {
  rc::check([] {
    const auto pairs = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::pair<int, int>>>(
        rc::gen::pair(rc::gen::inRange(-3, 4), rc::gen::inRange(-3, 4))));
    Regression regression;
    for (const auto& [x, y] : pairs) regression.Add(x, y * 0.5);
    // A rank is one more than the number of smaller values and half of the other equal ones.
    const auto n = static_cast<double>(pairs.size());
    std::vector<double> rx, ry;
    double error = 0;
    for (const auto& a : pairs) {
      double sx = 0.5, sy = 0.5;
      for (const auto& b : pairs) {
        sx += b.first < a.first ? 1 : b.first == a.first ? 0.5 : 0;
        sy += b.second < a.second ? 1 : b.second == a.second ? 0.5 : 0;
      }
      rx.push_back(sx);
      ry.push_back(sy);
      error += (a.first - a.second * 0.5) * (a.first - a.second * 0.5) / n;
    }
    double xy = 0, xx = 0, yy = 0;
    const double mean = (n + 1) / 2;
    for (size_t i = 0; i < rx.size(); ++i) {
      xy += (rx[i] - mean) * (ry[i] - mean);
      xx += (rx[i] - mean) * (rx[i] - mean);
      yy += (ry[i] - mean) * (ry[i] - mean);
    }
    const double expected = xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
    RC_ASSERT(std::abs(regression.Spearman() - expected) < 1e-9);
    RC_ASSERT(std::abs(regression.MeanSquaredError() - error) < 1e-9);
  });
}

TEST(Regression, PearsonKnowsLinesAndConstants) {
  Regression line, constant;
  for (int i = 0; i < 5; ++i) line.Add(i, 3 - 2.0 * i), constant.Add(1, i);
  EXPECT_DOUBLE_EQ(line.Pearson(), -1);
  EXPECT_EQ(constant.Pearson(), 0);
  EXPECT_EQ(Regression().Spearman(), 0);
}

}  // namespace
}  // namespace heddle::model
