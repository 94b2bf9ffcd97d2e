#include "simulator/report/svg.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "tests/unit/simulator/markup.h"

namespace heddle::simulator {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

struct Point {
  double x, y;
};
std::vector<Point> PointsOf(const std::string& polyline) {
  std::vector<Point> out;
  std::istringstream in(polyline);
  char comma;
  for (Point p{}; in >> p.x >> comma >> p.y;) out.push_back(p);
  return out;
}

// Every place of a chart is a number inside of its viewBox.
void ExpectInside(const std::string& chart) {
  EXPECT_EQ(Malformed(chart), "");
  const auto boxes = Attributes(chart, "viewBox");
  ASSERT_EQ(boxes.size(), 1U) << chart;
  double left, top, width, height;
  std::istringstream(boxes[0]) >> left >> top >> width >> height;
  const auto check = [&](const std::string& text, double limit) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    EXPECT_TRUE(!text.empty() && *end == '\0' && value >= 0 && value <= limit) << "'" << text << "' of " << limit;
  };
  for (const char* name : {"x", "x1", "x2", "cx", "width"}) {
    for (const std::string& value : Attributes(chart, name)) check(value, width);
  }
  for (const char* name : {"y", "y1", "y2", "cy"}) {
    for (const std::string& value : Attributes(chart, name)) check(value, height);
  }
  for (const std::string& line : Attributes(chart, "points")) {
    for (const Point& p : PointsOf(line)) {
      EXPECT_TRUE(p.x >= 0 && p.x <= width && p.y >= 0 && p.y <= height) << p.x << "," << p.y;
    }
  }
}

TEST(Svg, LargerValuesAreHigherAndLaterOnesFurtherToTheRight) {
  const std::string chart = LineChart("t", "x", "y", {{"a", {{1, 5.0}, {2, 4.0}, {3, 4.5}, {4, 1.0}}, false}});
  ExpectInside(chart);
  const auto lines = Attributes(chart, "points");
  ASSERT_EQ(lines.size(), 1U);
  const auto p = PointsOf(lines[0]);
  ASSERT_EQ(p.size(), 4U);
  for (size_t i = 1; i < p.size(); ++i) EXPECT_NEAR(p[i].x - p[i - 1].x, p[1].x - p[0].x, 0.2) << "uneven steps";
  // Heights are in proportion to the values.
  EXPECT_NEAR((p[3].y - p[0].y) / (5.0 - 1.0), (p[1].y - p[0].y) / (5.0 - 4.0), 0.2);
  EXPECT_LT(p[0].y, p[3].y);
}

TEST(Svg, TheAxisHasAFewRoundMarksAroundAllValues) {
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{
           {0, 1}, {3.1, 3.4}, {-2, 7}, {1e-9, 5e-9}, {1e6, 9e6}, {-1e12, 1e12}, {999.9, 1000.1}, {0, 0.07}}) {
    SCOPED_TRACE(std::to_string(low) + " to " + std::to_string(high));
    const std::string chart = LineChart("t", "x", "y", {{"a", {{1, low}, {2, high}}, false}});
    ExpectInside(chart);
    const auto marks = Attributes(chart, "y1");
    EXPECT_GE(marks.size(), 3U);
    EXPECT_LE(marks.size(), 9U);
    // The lowest and the highest mark enclose the line.
    const auto p = PointsOf(Attributes(chart, "points").at(0));
    EXPECT_GE(std::stod(marks.front()), p[0].y - 0.11);
    EXPECT_LE(std::stod(marks.back()), p[1].y + 0.11);
  }
}

TEST(Svg, ASingleRoundIsInTheMiddleUnderItsNumber) {
  for (double x : {1.0, 7.0, 1e6, 0.1}) {
    const std::string chart = LineChart("t", "x", "y", {{"a", {{x, 3.0}}, true}});
    ExpectInside(chart);
    EXPECT_NE(chart.find(">" + Pretty(x) + "</text>"), std::string::npos) << chart;
  }
}

// A report of 1e17 by one device would else be a chart whose marks never reach its end.
TEST(Svg, ValuesFarFromZeroAndTinyRangesAreDrawnToo) {
  const double next = std::nextafter(1e17, 2e17);
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{{1e17, 1e17},
                                                                        {1e17, next},
                                                                        {-1e300, 1e300},
                                                                        {1e300, 1e300},
                                                                        {0, 5e-324},
                                                                        {1, std::nextafter(1.0, 2.0)},
                                                                        {0, 0},
                                                                        {-1e-300, 1e-300}}) {
    SCOPED_TRACE(std::to_string(low) + " to " + std::to_string(high));
    ExpectInside(LineChart("t", "x", "y", {{"a", {{1, low}, {2, high}}, false}}));
    if (low < high) ExpectInside(LineChart("t", "x", "y", {{"a", {{low, 1}, {high, 2}}, false}}));
  }
}

TEST(Svg, PointsThatAreNoNumbersAreLeftOut) {
  const std::string chart =
      LineChart("t", "x", "y",
                {{"a", {{1, kNan}, {2, 1.0}, {kNan, 2}, {3, kInfinity}, {4, 2.0}, {5, -kInfinity}, {6, 1e308}}, false},
                 {"nothing", {{1, kNan}, {2, kNan}}, true}});
  ExpectInside(chart);
  ASSERT_EQ(Attributes(chart, "points").size(), 1U) << "a line of nothing";
  EXPECT_EQ(PointsOf(Attributes(chart, "points")[0]).size(), 2U);
  const std::string none = LineChart("Losses", "x", "y", {{"a", {{1, kNan}}, false}, {"b", {}, false}});
  EXPECT_EQ(Malformed(none), "");
  EXPECT_NE(none.find("Losses"), std::string::npos);
  EXPECT_EQ(none.find("<svg"), std::string::npos);
  EXPECT_EQ(LineChart("Losses", "x", "y", {}), none);
}

TEST(Svg, NamesAtTheLinesEndsDoNotOverlapAndStayInThePicture) {
  for (double end : {0.0, 1.0}) {  // all lines end at the bottom, or at the top
    std::vector<Series> series;
    for (int i = 0; i < 9; ++i) series.push_back({"device-" + std::to_string(i), {{1, 1 - end}, {2, end}}, i == 8});
    const std::string chart = LineChart("t", "x", "y", series);
    ExpectInside(chart);
    std::vector<double> heights;
    for (const std::string& y : Attributes(chart, "cy")) heights.push_back(std::stod(y));
    ASSERT_EQ(heights.size(), 9U);
    std::sort(heights.begin(), heights.end());
    for (size_t i = 1; i < heights.size(); ++i) EXPECT_GE(heights[i] - heights[i - 1], 14.5);
  }
}

TEST(Svg, BarsAreInProportionAndWhatIsNoNumberHasNone) {
  const std::string chart =
      BarChart("Perplexity", "lower is better", {{"a", 10, false}, {"b", 20, true}, {"c", kNan, false}});
  ExpectInside(chart);
  const auto widths = Attributes(chart, "width");
  ASSERT_EQ(widths.size(), 3U);
  EXPECT_NEAR(std::stod(widths[1]), 2 * std::stod(widths[0]), 0.2);
  EXPECT_EQ(std::stod(widths[2]), 0);
  EXPECT_EQ(chart.find("nan"), std::string::npos);
  ExpectInside(BarChart("t", "", {}));
  ExpectInside(BarChart("t", "", {{"zero", 0, false}}));
}

TEST(Svg, TextCannotLeaveItsPlace) {
  const std::string evil = R"("><script>alert('&')</script>)";
  EXPECT_EQ(Escape(evil), "&quot;&gt;&lt;script&gt;alert('&amp;')&lt;/script&gt;");
  for (const std::string& chart : {LineChart(evil, evil, evil, {{evil, {{1, 1}, {2, 2}}, false}}),
                                   LineChart(evil, evil, evil, {}), BarChart(evil, evil, {{evil, 1, true}})}) {
    EXPECT_EQ(Malformed(chart), "");
    EXPECT_EQ(chart.find("<script"), std::string::npos);
  }
}

TEST(Svg, NumbersAreAsPeopleReadThem) {
  EXPECT_EQ(Pretty(0), "0");
  EXPECT_EQ(Pretty(12), "12");
  EXPECT_EQ(Pretty(-3), "-3");
  EXPECT_EQ(Pretty(3.14159265), "3.142");
  EXPECT_EQ(Pretty(123.456), "123.5");
  EXPECT_EQ(Pretty(12'345), "12.3 k");
  EXPECT_EQ(Pretty(4'200'000), "4.20 M");
  EXPECT_EQ(Pretty(7.5e9), "7.50 G");
  EXPECT_EQ(Pretty(kNan), "-");
  EXPECT_EQ(Pretty(-kInfinity), "-");
}

// The look itself: it must see what it is for.
TEST(Svg, TheTestsOwnLookSeesMistakes) {
  EXPECT_EQ(Malformed("<p>a &amp; b <b>c</b></p><line x=\"1\"/>"), "");
  for (const char* bad : {"<p>", "</p>", "<p><b></p></b>", "<p>a & b</p>", "a < b", "a > b", "<p class=x></p>",
                          "<p title=\"a\"b\"></p>", "<p title=\"a>b\"></p>", "<p title=\"a", "<p <b></b></p>"}) {
    EXPECT_NE(Malformed(bad), "") << bad;
  }
}

}  // namespace
}  // namespace heddle::simulator
