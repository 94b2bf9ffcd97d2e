// Line and bar charts as inline SVG, readable in light and dark and without a network. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace heddle::simulator {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // not finite ones are left out
  bool strong = false;                            // the line that matters: thicker, in front
};

struct Bar {
  std::string name;
  double value = 0;
  bool strong = false;
};

// Text as it may stand in HTML and SVG.
std::string Escape(std::string_view text);
// A number with as many digits as people read.
std::string Pretty(double value);
std::string LineChart(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series);
std::string BarChart(const std::string& title, const std::string& unit, const std::vector<Bar>& bars);

}  // namespace heddle::simulator
