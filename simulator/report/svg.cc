#include "simulator/report/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace heddle::simulator {
namespace {

constexpr double kWidth = 760, kHeight = 340, kLeft = 62, kRight = 150, kTop = 34, kBottom = 46;
constexpr std::array<const char*, 8> kColours = {"#4477aa", "#ee6677", "#228833", "#ccbb44",
                                                 "#66ccee", "#aa3377", "#999933", "#bbbbbb"};

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

// A step of 1, 2 or 5 times a power of ten that makes about five marks.
double NiceStep(double range) {
  if (!(range > 0)) return 1;
  const double rough = range / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (double factor : {1.0, 2.0, 5.0, 10.0}) {
    if (rough <= factor * power) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  double low = 0, high = 1, step = 1;
};

Axis MakeAxis(double low, double high) {
  // A range that doubles of this size cannot be cut into steps is drawn like a single value.
  const double least = std::max(std::max(std::abs(low), std::abs(high)) * 1e-9, 1e-300);
  if (!(high - low > least)) {
    const double room = std::max(0.5, least);
    low -= room;
    high += room;
  }
  Axis axis;
  axis.step = NiceStep(high - low);
  axis.low = std::floor(low / axis.step) * axis.step;
  axis.high = std::ceil(high / axis.step) * axis.step;
  return axis;
}

// What devices say may be any number; beyond this, differences would overflow.
bool CanDraw(double value) { return std::abs(value) <= 1e300; }

std::string TextAt(double x, double y, const std::string& anchor, const std::string& text, const char* kind = "t") {
  return "<text class=\"" + std::string(kind) + "\" x=\"" + Number(x) + "\" y=\"" + Number(y) + "\" text-anchor=\"" +
         anchor + "\">" + Escape(text) + "</text>\n";
}

std::string Open(double height, const std::string& title) {
  return "<svg viewBox=\"0 0 " + Number(kWidth) + " " + Number(height) + "\" role=\"img\" aria-label=\"" +
         Escape(title) + "\">\n<title>" + Escape(title) + "</title>\n" + TextAt(kLeft, 18, "start", title, "h");
}

}  // namespace

std::string Escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string Pretty(double value) {
  char text[40];
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  if (size >= 1e9) {
    std::snprintf(text, sizeof text, "%.2f G", value / 1e9);
  } else if (size >= 1e6) {
    std::snprintf(text, sizeof text, "%.2f M", value / 1e6);
  } else if (size >= 1e4) {
    std::snprintf(text, sizeof text, "%.1f k", value / 1e3);
  } else if (size == std::floor(size)) {
    std::snprintf(text, sizeof text, "%.0f", value);
  } else {
    std::snprintf(text, sizeof text, size >= 100 ? "%.1f" : "%.4g", value);
  }
  return text;
}

std::string LineChart(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series) {
  double low_x = std::numeric_limits<double>::infinity(), low_y = low_x, high_x = -low_x, high_y = -low_x;
  for (const Series& s : series) {
    for (const auto& [x, y] : s.points) {
      if (!CanDraw(x) || !CanDraw(y)) continue;
      low_x = std::min(low_x, x);
      high_x = std::max(high_x, x);
      low_y = std::min(low_y, y);
      high_y = std::max(high_y, y);
    }
  }
  if (!std::isfinite(low_x)) return "<p>No points for “" + Escape(title) + "”.</p>\n";
  const Axis ax = MakeAxis(low_x, high_x), ay = MakeAxis(low_y, high_y);
  const double width = high_x - low_x, slack = width * 1e-9;
  const auto px = [&](double x) { return kLeft + (width > 0 ? (x - low_x) / width : 0.5) * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kHeight - kBottom - (y - ay.low) / (ay.high - ay.low) * (kHeight - kTop - kBottom);
  };
  std::string out = Open(kHeight, title);
  for (double y = ay.low; y <= ay.high + ay.step / 2; y += ay.step) {
    out += "<line class=\"g\" x1=\"" + Number(kLeft) + "\" x2=\"" + Number(kWidth - kRight) + "\" y1=\"" +
           Number(py(y)) + "\" y2=\"" + Number(py(y)) + "\"/>\n" +
           TextAt(kLeft - 8, py(y) + 4, "end", Pretty(std::round(y / ay.step) * ay.step));
  }
  if (width == 0) out += TextAt(px(low_x), kHeight - kBottom + 18, "middle", Pretty(low_x));
  for (double x = ax.low; width > 0 && x <= high_x + slack; x += ax.step) {
    if (x < low_x - slack) continue;
    out += TextAt(px(x), kHeight - kBottom + 18, "middle", Pretty(x));
  }
  out += TextAt((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", x_label);
  out += TextAt(kWidth - kRight, 18, "end", y_label);

  // Names at the lines' ends, pushed apart where they would overlap.
  struct Label {
    double y;
    size_t index;
  };
  std::vector<Label> labels;
  for (size_t pass = 0; pass < 2; ++pass) {
    for (size_t i = 0; i < series.size(); ++i) {
      if (series[i].strong != (pass == 1)) continue;
      const char* colour = series[i].strong ? "var(--ink)" : kColours[i % kColours.size()];
      std::string points;
      double last = NAN;
      for (const auto& [x, y] : series[i].points) {
        if (!CanDraw(x) || !CanDraw(y)) continue;
        points += Number(px(x)) + "," + Number(py(y)) + " ";
        last = py(y);
      }
      if (!std::isfinite(last)) continue;
      out += "<polyline fill=\"none\" stroke=\"" + std::string(colour) + "\" stroke-width=\"" +
             (series[i].strong ? "3" : "1.5") + "\" stroke-linejoin=\"round\" points=\"" + points + "\"/>\n";
      labels.push_back({last, i});
    }
  }
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  for (size_t i = 1; i < labels.size(); ++i) labels[i].y = std::max(labels[i].y, labels[i - 1].y + 15);
  double bottom = kHeight - 8;
  for (auto label = labels.rbegin(); label != labels.rend(); ++label, bottom -= 15) {
    label->y = std::min(label->y, bottom);
  }
  for (const Label& label : labels) {
    const Series& s = series[label.index];
    const char* colour = s.strong ? "var(--ink)" : kColours[label.index % kColours.size()];
    out += "<circle cx=\"" + Number(kWidth - kRight + 10) + "\" cy=\"" + Number(label.y) + "\" r=\"4\" fill=\"" +
           colour + "\"/>\n" + TextAt(kWidth - kRight + 20, label.y + 4, "start", s.name, s.strong ? "s" : "t");
  }
  return out + "</svg>\n";
}

std::string BarChart(const std::string& title, const std::string& unit, const std::vector<Bar>& bars) {
  double high = 0;
  for (const Bar& bar : bars) {
    if (std::isfinite(bar.value)) high = std::max(high, bar.value);
  }
  const double row = 34, height = kTop + row * static_cast<double>(bars.size()) + 12, name_width = 190;
  std::string out = Open(height, title + (unit.empty() ? "" : ", " + unit));
  double y = kTop;
  for (const Bar& bar : bars) {
    const double width = high > 0 && std::isfinite(bar.value) ? bar.value / high * (kWidth - name_width - 110) : 0;
    out += TextAt(name_width - 10, y + 19, "end", bar.name, bar.strong ? "s" : "t");
    out += "<rect x=\"" + Number(name_width) + "\" y=\"" + Number(y + 4) + "\" width=\"" + Number(width) +
           "\" height=\"22\" rx=\"3\" fill=\"" + (bar.strong ? "var(--accent)" : "var(--soft)") + "\"/>\n";
    out += TextAt(name_width + width + 8, y + 20, "start", Pretty(bar.value), bar.strong ? "s" : "t");
    y += row;
  }
  return out + "</svg>\n";
}

}  // namespace heddle::simulator
