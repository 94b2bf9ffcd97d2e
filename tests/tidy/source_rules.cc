#include "tests/tidy/source_rules.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string_view>

namespace heddle::tidy {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLines = 500;
constexpr size_t kMaxReadmeLines = 60;

struct Include {
  size_t line;
  std::string path;
  bool quoted;
};

bool IsCode(const std::string& path) { return path.ends_with(".h") || path.ends_with(".cc"); }
bool IsHeader(const std::string& path) { return path.ends_with(".h"); }
std::string RoomOf(const std::string& path) { return path.substr(0, path.find('/')); }

bool Under(const std::string& path, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& p) { return path.starts_with(p); });
}

std::string At(const std::string& path, size_t line, const std::string& sentence) {
  return path + ":" + std::to_string(line) + ": " + sentence;
}

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string Trim(const std::string& text) {
  size_t begin = text.find_first_not_of(" \t\r");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// What `path` includes. Tests may name a header of their own folder without the way to it.
std::vector<Include> IncludesOf(const std::string& path, const std::string& text) {
  std::vector<Include> includes;
  std::vector<std::string> lines = LinesOf(text);
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string line = Trim(lines[i]);
    if (line.empty() || line[0] != '#') continue;
    line = Trim(line.substr(1));
    if (!line.starts_with("include")) continue;
    line = Trim(line.substr(7));
    if (line.size() < 2 || (line[0] != '"' && line[0] != '<')) continue;
    size_t end = line.find(line[0] == '"' ? '"' : '>', 1);
    if (end == std::string::npos) continue;
    std::string name = line.substr(1, end - 1);
    bool neighbour = line[0] == '"' && path.starts_with("tests/") && name.find('/') == std::string::npos;
    if (neighbour) name = path.substr(0, path.rfind('/') + 1) + name;
    includes.push_back({i + 1, std::move(name), line[0] == '"'});
  }
  return includes;
}

// DESIGN 3. Tests are above all; what is no room has no level.
std::optional<int> LevelOf(const std::string& room) {
  static const std::map<std::string, int> kLevels = {
      {"common", 0},   {"protocol", 1}, {"model", 1},       {"aggregation", 2}, {"peft", 2},
      {"zo_optim", 1}, {"client", 3},   {"coordinator", 3}, {"simulator", 4},   {"tests", 5}};
  auto it = kLevels.find(room);
  return it == kLevels.end() ? std::nullopt : std::optional<int>(it->second);
}

struct Wall {
  std::vector<std::string> headers;  // prefixes of what is included
  std::vector<std::string> inside;   // prefixes of who may
  bool sources_only;                 // not even their headers
  std::string what;
};

const std::vector<std::string>& TorchHeaders() {
  static const std::vector<std::string> kHeaders = {"torch/", "ATen/", "c10/", "caffe2/"};
  return kHeaders;
}

bool IsProtobuf(const std::string& path) { return path.ends_with(".pb.h") || path.starts_with("google/protobuf/"); }

const std::vector<Wall>& Walls() {
  static const std::vector<Wall> kWalls = {
      {TorchHeaders(),
       {"model/memory/", "model/transformer/", "model/weights/", "model/quant/", "model/training/", "model/pretrain/",
        "peft/", "zo_optim/", "client/worker/", "client/split/", "client/model_tool/", "coordinator/split/",
        "simulator/", "tests/"},
       false,
       "LibTorch stays where training is"},
      {{"boost/asio", "boost/beast", "sys/socket.h", "netinet/", "arpa/", "sys/un.h"},
       {"protocol/transport/", "client/", "coordinator/", "simulator/", "tests/"},
       false,
       "sockets belong to the transport and the services"},
      {{"boost/beast"}, {"protocol/transport/", "tests/"}, false, "Beast is instantiated in the transport only"},
      {{"openssl/"},
       {"common/digest.cc", "protocol/transport/", "tests/"},
       false,
       "OpenSSL stays in the digest and the transport"},
      {{"sqlite3.h", "SQLiteCpp/"}, {"coordinator/store/", "tests/"}, false, "SQLite stays in the store"},
      {{"unicode/"}, {"model/tokenizer/unicode.cc", "tests/"}, true, "ICU stays behind model/tokenizer/unicode.h"},
      {{"pcre2.h"}, {"model/tokenizer/pattern.cc", "tests/"}, true, "PCRE2 stays behind model/tokenizer/pattern.h"},
      {{"sentencepiece"}, {"tests/"}, true, "SentencePiece's library clashes with Protobuf (decision 0009)"},
      {{"spdlog/"}, {"common/logging.cc", "tests/"}, true, "spdlog stays behind common/logging.h"},
      {{"toml++/"}, {"common/config.cc", "model/pretrain/", "tests/"}, true, "TOML is read through common/config.h"},
      {{"prometheus/"}, {"coordinator/service/", "tests/"}, true, "prometheus-cpp stays in the service's sources"},
  };
  return kWalls;
}

// One heddle_library(…), heddle_executable(…) or heddle_test(…) of a CMake file.
struct Target {
  std::string name;
  bool torch = false, executable = false;
  std::vector<std::string> depends;  // libraries of ours, without heddle::
  std::vector<std::string> files;    // relative to the root
};

std::vector<Target> TargetsOf(const std::string& cmake_path, const std::string& raw_text) {
  std::string text;
  for (const std::string& line : LinesOf(raw_text)) text += line.substr(0, line.find('#')) + "\n";
  const std::string folder = cmake_path.substr(0, cmake_path.rfind('/') + 1);
  std::vector<Target> targets;
  for (const char* function : {"heddle_library(", "heddle_executable(", "heddle_test("}) {
    for (size_t at = text.find(function); at != std::string::npos; at = text.find(function, at + 1)) {
      size_t begin = at + std::string_view(function).size();
      std::istringstream words(text.substr(begin, text.find(')', begin) - begin));
      Target target;
      words >> target.name;
      target.executable = function == std::string_view("heddle_executable(");
      std::string section;
      for (std::string word; words >> word;) {
        if (word == "TORCH") {
          target.torch = true;
        } else if (word == "HEADERS" || word == "SOURCES") {
          section = word;
        } else if (std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isupper(c) || c == '_'; })) {
          section.clear();
        } else if (word.starts_with("heddle::")) {
          target.depends.push_back(word.substr(8));
        } else if (!section.empty()) {
          target.files.push_back(folder + word);
        }
      }
      targets.push_back(std::move(target));
    }
  }
  return targets;
}

// What a file sees through its includes, itself and ours followed.
struct Sees {
  std::string torch;     // the chain that leads there, or empty
  std::string protobuf;  // as above
};

class Closure {
 public:
  explicit Closure(const Tree& tree) : tree_(tree) {}

  const Sees& Of(const std::string& path) {
    auto [it, inserted] = seen_.try_emplace(path);
    Sees& sees = it->second;
    auto file = tree_.find(path);
    if (!inserted || file == tree_.end()) return sees;
    for (const Include& include : IncludesOf(path, file->second)) {
      if (Under(include.path, TorchHeaders())) sees.torch = path + " > " + include.path;
      if (IsProtobuf(include.path)) sees.protobuf = path + " > " + include.path;
      if (!include.quoted) continue;
      const Sees& inner = Of(include.path);
      if (sees.torch.empty() && !inner.torch.empty()) sees.torch = path + " > " + inner.torch;
      if (sees.protobuf.empty() && !inner.protobuf.empty()) sees.protobuf = path + " > " + inner.protobuf;
    }
    return sees;
  }

 private:
  const Tree& tree_;
  std::map<std::string, Sees> seen_;
};

}  // namespace

const std::vector<std::string>& Rooms() {
  static const std::vector<std::string> kRooms = {"common",   "protocol", "model",       "aggregation", "peft",
                                                  "zo_optim", "client",   "coordinator", "simulator"};
  return kRooms;
}

Tree ReadTree(const fs::path& root) {
  Tree tree;
  std::vector<std::string> folders = Rooms();
  folders.insert(folders.end(), {"tests", "docs", "recipes"});
  for (const std::string& folder : folders) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      std::string name = entry.path().filename().string();
      static const std::set<std::string> kExtensions = {".h",  ".cc", ".inc", ".proto", ".cmake",
                                                        ".md", ".py", ".sh",  ".toml"};
      if (!entry.is_regular_file() || name[0] == '.') continue;
      if (name != "CMakeLists.txt" && !kExtensions.contains(entry.path().extension().string())) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      tree[fs::relative(entry.path(), root).generic_string()] = {std::istreambuf_iterator<char>(in), {}};
    }
  }
  return tree;
}

Violations CheckLevels(const Tree& tree) {
  Violations out;
  for (const auto& [path, text] : tree) {
    if (!IsCode(path)) continue;
    const std::string room = RoomOf(path);
    for (const Include& include : IncludesOf(path, text)) {
      if (!include.quoted) continue;
      const std::string other = RoomOf(include.path);
      if (!LevelOf(other) || include.path.find("..") != std::string::npos) {
        out.push_back(At(path, include.line, "\"" + include.path + "\" is not named from the root of the sources"));
      } else if (room != other && *LevelOf(other) >= LevelOf(room).value_or(-1)) {
        out.push_back(At(path, include.line, room + " may not know " + other + " (DESIGN 3): " + include.path));
      } else if (!include.path.ends_with(".pb.h") && !tree.contains(include.path)) {
        out.push_back(At(path, include.line, include.path + " does not exist"));
      }
    }
  }
  return out;
}

Violations CheckWalls(const Tree& tree) {
  Violations out;
  for (const auto& [path, text] : tree) {
    if (!IsCode(path)) continue;
    for (const Include& include : IncludesOf(path, text)) {
      for (const Wall& wall : Walls()) {
        if (!Under(include.path, wall.headers)) continue;
        bool is_public = wall.sources_only && IsHeader(path) && RoomOf(path) != "tests";
        if (!Under(path, wall.inside) || is_public)
          out.push_back(At(path, include.line, include.path + ": " + wall.what));
      }
      if (IsProtobuf(include.path) && !Under(path, {"protocol/", "client/", "coordinator/", "simulator/", "tests/"})) {
        out.push_back(At(path, include.line, include.path + ": Protobuf stays in protocol and what speaks it"));
      }
    }
  }
  return out;
}

Violations CheckTorch(const Tree& tree) {
  Violations out;
  Closure closure(tree);
  std::set<std::string> with_torch;  // sources that see LibTorch through the precompiled header
  for (const auto& [path, text] : tree) {
    if (!path.ends_with("CMakeLists.txt")) continue;
    for (const Target& target : TargetsOf(path, text)) {
      for (const std::string& file : target.files) {
        if (target.torch) {
          with_torch.insert(file);
        } else if (!closure.Of(file).torch.empty()) {
          out.push_back(file + ":1: the target " + target.name + " is free of LibTorch, but " + closure.Of(file).torch);
        }
      }
    }
  }
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".cc")) continue;
    const Sees& sees = closure.Of(path);
    bool torch = !sees.torch.empty() || with_torch.contains(path);
    if (torch && !sees.protobuf.empty()) {
      out.push_back(path + ":1: LibTorch and Protobuf in one translation unit: " +
                    (sees.torch.empty() ? "the precompiled header" : sees.torch) + " and " + sees.protobuf);
    }
  }
  return out;
}

Violations CheckBlasAtStart(const Tree& tree) {
  std::vector<Target> targets;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with("CMakeLists.txt")) continue;
    const std::vector<Target> here = TargetsOf(path, text);
    targets.insert(targets.end(), here.begin(), here.end());
  }
  std::set<std::string> torch;
  for (bool more = true; more;) {  // until nothing new is found to link what links it
    more = false;
    for (const Target& target : targets) {
      const bool links = target.torch || std::any_of(target.depends.begin(), target.depends.end(),
                                                     [&](const std::string& name) { return torch.contains(name); });
      if (links && torch.insert(target.name).second) more = true;
    }
  }
  Violations out;
  for (const Target& target : targets) {
    if (!target.executable || !torch.contains(target.name)) continue;
    for (const std::string& file : target.files) {
      const auto source = tree.find(file);
      if (source == tree.end() || source->second.find("int main(") == std::string::npos) continue;
      if (source->second.find("WarnOfSlowBlas()") == std::string::npos) {
        out.push_back(At(file, 1, target.name + " links LibTorch: its start calls model::WarnOfSlowBlas()"));
      }
    }
  }
  return out;
}

Violations CheckProtoComments(const Tree& tree) {
  Violations out;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".proto")) continue;
    std::vector<std::string> lines = LinesOf(text);
    if (lines.empty() || !lines[0].starts_with("//")) out.push_back(At(path, 1, "it does not start with its purpose"));
    for (size_t i = 0; i < lines.size(); ++i) {
      std::string line = Trim(lines[i]);
      bool is_type = line.starts_with("message ") || line.starts_with("enum ");
      bool is_field = !line.starts_with("//") && !line.starts_with("option ") && !line.starts_with("syntax ") &&
                      line.find(" = ") != std::string::npos && line.find(';') != std::string::npos;
      if (!is_type && !is_field) continue;
      bool above = i > 0 && Trim(lines[i - 1]).starts_with("//");
      bool behind = line.find("//") != std::string::npos;
      bool unspecified = line.find("_UNSPECIFIED = 0;") != std::string::npos;  // every enum's says the same
      if (!above && !behind && !unspecified) out.push_back(At(path, i + 1, "no comment says what this is: " + line));
    }
  }
  return out;
}

Violations CheckHeaderComments(const Tree& tree) {
  Violations out;
  for (const auto& [path, text] : tree) {
    if (!IsHeader(path)) continue;
    if (!text.starts_with("// ")) out.push_back(At(path, 1, "a header starts with a comment about its purpose"));
    if (text.find("\n#pragma once\n") == std::string::npos) out.push_back(At(path, 1, "a header has #pragma once"));
  }
  return out;
}

Violations CheckLength(const Tree& tree, const std::string& reasons) {
  Violations out;
  std::map<std::string, std::string> allowed;
  for (const std::string& line : LinesOf(reasons)) {
    if (line.empty() || line[0] == '#') continue;
    size_t colon = line.find(": ");
    if (colon == std::string::npos) {
      out.push_back("no reason: " + line);
    } else {
      allowed[line.substr(0, colon)] = line.substr(colon + 2);
    }
  }
  for (const auto& [path, text] : tree) {
    if (!IsCode(path) && !path.ends_with(".proto")) continue;
    size_t lines = LinesOf(text).size();
    if (lines > kMaxLines && allowed.erase(path) == 0) {
      out.push_back(path + ":1: " + std::to_string(lines) + " lines; more than 500 need a reason in long_files.txt");
    }
  }
  for (const auto& [path, reason] : allowed) out.push_back(path + ": it is not longer than 500 lines; strike it off");
  return out;
}

Violations CheckReadmes(const Tree& tree) {
  Violations out;
  std::vector<std::string> rooms = Rooms();
  rooms.insert(rooms.end(), {"recipes", "tests"});
  for (const std::string& room : rooms) {
    auto readme = tree.find(room + "/README.md");
    if (readme == tree.end()) {
      out.push_back(room + "/README.md: it does not exist");
    } else if (size_t lines = LinesOf(readme->second).size(); lines > kMaxReadmeLines) {
      out.push_back(room + "/README.md: " + std::to_string(lines) + " lines; a room is explained on one screen (60)");
    }
  }
  return out;
}

Violations CheckMarkers(const Tree& tree) {
  // In two pieces, so that this file does not find itself.
  static const std::array<std::string, 3> kMarkers = {std::string("TO") + "DO", std::string("FIX") + "ME",
                                                      std::string("XX") + "X"};
  auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  Violations out;
  for (const auto& [path, text] : tree) {
    std::vector<std::string> lines = LinesOf(text);
    for (size_t i = 0; i < lines.size(); ++i) {
      for (const std::string& marker : kMarkers) {
        size_t at = lines[i].find(marker);
        if (at == std::string::npos) continue;
        bool starts = at == 0 || !is_word(lines[i][at - 1]);
        size_t end = at + marker.size();
        bool ends = end >= lines[i].size() || !is_word(lines[i][end]);
        if (starts && ends) out.push_back(At(path, i + 1, "unfinished work: " + Trim(lines[i])));
      }
    }
  }
  return out;
}

Violations CheckFailpoints(const Tree& tree) {
  static const std::regex kDurable(
      R"((::fsync|::fdatasync|::rename|::renameat2?|fs::rename|filesystem::rename|\.commit)\(|stream_\.Write\(answer)");
  static const std::regex kPoint(R"(HEDDLE_FAILPOINT\((k\w+)\))");
  static const std::regex kListed(R"(X\((k\w+), "[a-z-]+"\))");
  static const std::vector<std::string> kMortal = {"common/", "protocol/", "coordinator/", "client/"};
  constexpr size_t kNear = 3;
  Violations out;
  std::set<std::string> placed;
  for (const auto& [path, text] : tree) {
    if (!Under(path, kMortal) || !IsCode(path) || path == "common/test_hooks.h") continue;
    const std::vector<std::string> lines = LinesOf(text);
    std::vector<bool> points;
    for (const std::string& line : lines) {
      std::smatch point;
      points.push_back(std::regex_search(line, point, kPoint));
      if (points.back()) placed.insert(point[1]);
    }
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!std::regex_search(lines[i], kDurable) || Trim(lines[i]).starts_with("//")) continue;
      const auto here = points.begin() + static_cast<ptrdiff_t>(i);
      const bool before = std::find(here - static_cast<ptrdiff_t>(std::min(i, kNear)), here, true) != here;
      const auto end = here + static_cast<ptrdiff_t>(std::min(points.size() - i, kNear + 1));
      const bool after = std::find(here, end, true) != end;
      if (!before || !after) out.push_back(At(path, i + 1, "no failpoint before and after: " + Trim(lines[i])));
    }
  }
  const auto hooks = tree.find("common/test_hooks.h");
  if (hooks == tree.end()) return out;
  const size_t begin = hooks->second.find("#define HEDDLE_FAILPOINTS");
  const std::string list = hooks->second.substr(begin, hooks->second.find("#define HEDDLE_PLANTED_BUGS") - begin);
  for (std::sregex_iterator it(list.begin(), list.end(), kListed), end; it != end; ++it) {
    if (!placed.contains((*it)[1])) out.push_back("common/test_hooks.h: no code passes " + (*it)[1].str());
  }
  return out;
}

}  // namespace heddle::tidy
