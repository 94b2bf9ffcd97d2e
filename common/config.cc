#include "common/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdlib>
#include <set>
#include <sstream>

#include "common/assert.h"
#include "common/config_words.h"
#include "common/file.h"

namespace heddle {
namespace {

namespace json = boost::json;

struct Key {
  ConfigSchema::Target target;
  ConfigKeyOptions options;
  std::string source = "default";
  std::string default_json;  // with silent_default
};

struct TableKey {
  std::map<std::string, std::string>* target;
  std::string help;
};

std::string Snake(std::string_view key) {
  std::string out(key);
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

std::string EnvironmentName(const std::string& key) {
  std::string name = "HEDDLE_" + key;
  for (char& c : name) c = c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<int64_t>(value));
  return DoubleText(value);
}

template <typename T>
bool Take(std::optional<T> value, T* out) {
  if (!value) return false;
  *out = *std::move(value);
  return true;
}

template <typename T>
bool TakeList(const toml::node& node, std::vector<T>* out) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return false;
  std::vector<T> list;
  for (const toml::node& element : *array) {
    auto value = element.value_exact<T>();
    if (!value) return false;
    list.push_back(*std::move(value));
  }
  *out = std::move(list);
  return true;
}

// What the key takes, in words.
struct TypeName {
  std::string operator()(const bool*) const { return "true or false"; }
  std::string operator()(const int64_t*) const { return "a whole number"; }
  std::string operator()(const uint64_t*) const { return "a whole number from 0"; }
  std::string operator()(const double*) const { return "a number"; }
  std::string operator()(const std::optional<double>*) const { return "a number"; }
  std::string operator()(const std::string*) const { return "a text in quotes"; }
  std::string operator()(const std::vector<std::string>*) const { return "a list of texts"; }
  std::string operator()(const std::vector<int64_t>*) const { return "a list of whole numbers"; }
};

json::value ToJson(const ConfigSchema::Target& target) {
  struct Visitor {
    json::value operator()(const bool* v) const { return *v; }
    json::value operator()(const int64_t* v) const { return *v; }
    json::value operator()(const uint64_t* v) const { return *v; }
    json::value operator()(const double* v) const {
      // Whole numbers are written as such, so that the text reads as people write it.
      if (*v == std::floor(*v) && std::abs(*v) < 1e15) return static_cast<int64_t>(*v);
      return *v;
    }
    json::value operator()(const std::optional<double>* v) const { return *v ? (*this)(&**v) : json::value(nullptr); }
    json::value operator()(const std::string* v) const { return json::string(*v); }
    json::value operator()(const std::vector<std::string>* v) const {
      json::array out;
      for (const std::string& s : *v) out.emplace_back(json::string(s));
      return out;
    }
    json::value operator()(const std::vector<int64_t>* v) const { return json::array(v->begin(), v->end()); }
  };
  return std::visit(Visitor{}, target);
}

// Boost.JSON writes 3e-4 as 3E-4 and 0.1 as 1E-1; people read the shortest decimal.
std::string ValueText(const json::value& value) {
  if (value.is_double()) return DoubleText(value.as_double());
  if (value.is_array()) {
    std::string out = "[";
    for (const json::value& element : value.as_array()) out += (out.size() > 1 ? "," : "") + ValueText(element);
    return out + "]";
  }
  if (value.is_string()) return TomlText(value.as_string());
  return json::serialize(value);
}

}  // namespace

struct ConfigSchema::Impl {
  std::string what;
  std::map<std::string, Key> keys;
  std::map<std::string, TableKey> tables;

  // Of the load under way.
  std::vector<std::string> errors;
  std::string name;
  std::filesystem::path folder;
  std::set<std::string> flag_keys;  // keys of free-form tables that came from a flag

  std::vector<std::string> KnownNames() const {
    std::vector<std::string> names;
    for (const auto& [key, unused] : keys) names.push_back(key);
    for (const auto& [key, unused] : tables) names.push_back(key);
    return names;
  }

  bool IsPrefix(const std::string& prefix) const {
    auto starts = [&](const auto& map) {
      auto it = map.lower_bound(prefix + ".");
      return it != map.end() && it->first.starts_with(prefix + ".");
    };
    return starts(keys) || starts(tables);
  }

  void Error(const std::string& where, const std::string& key, const std::string& sentence) {
    errors.push_back(where + ": " + (key.empty() ? "" : key + ": ") + sentence);
  }

  void UnknownKey(const std::string& where, const std::string& key) {
    auto nearest = NearestName(key, KnownNames());
    if (!nearest) {
      // The word may be right in a wrong table.
      std::string last = key.substr(key.rfind('.') + 1);
      for (const std::string& known : KnownNames()) {
        if (known.substr(known.rfind('.') + 1) == last) nearest = known;
      }
    }
    Error(where, key, "this key does not exist" + (nearest ? "; did you mean '" + *nearest + "'?" : std::string()));
  }

  void CheckBounds(const std::string& where, const std::string& key, const Key& k) {
    auto check = [&](double value, const std::string& what_it_is) {
      if (!std::isfinite(value)) return Error(where, key, "it must be a finite number");
      if (value < k.options.min || value > k.options.max) {
        std::string range = std::isinf(k.options.max) ? "at least " + Number(k.options.min)
                            : std::isinf(k.options.min)
                                ? "at most " + Number(k.options.max)
                                : "from " + Number(k.options.min) + " to " + Number(k.options.max);
        Error(where, key, what_it_is + Number(value) + " is out of range; it must be " + range);
      }
    };
    struct Visitor {
      decltype(check)& c;
      void operator()(const bool*) const {}
      void operator()(const int64_t* v) const { c(static_cast<double>(*v), ""); }
      void operator()(const uint64_t* v) const { c(static_cast<double>(*v), ""); }
      void operator()(const double* v) const { c(*v, ""); }
      void operator()(const std::optional<double>* v) const {
        if (*v) c(**v, "");
      }
      void operator()(const std::string* v) const { c(static_cast<double>(v->size()), "a length of "); }
      void operator()(const std::vector<std::string>* v) const { c(static_cast<double>(v->size()), "a length of "); }
      void operator()(const std::vector<int64_t>* v) const { c(static_cast<double>(v->size()), "a length of "); }
    };
    std::visit(Visitor{check}, k.target);
    if (auto* text = std::get_if<std::string*>(&k.target); text != nullptr && !k.options.choices.empty()) {
      const auto& choices = k.options.choices;
      if (std::find(choices.begin(), choices.end(), **text) == choices.end()) {
        std::string list;
        for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
        auto nearest = NearestName(**text, choices);
        Error(where, key,
              "'" + **text + "' is not one of " + list + (nearest ? "; did you mean '" + *nearest + "'?" : ""));
      }
    }
  }

  // From a TOML node into the bound variable; false when the type is wrong.
  static bool Assign(const Target& target, const toml::node& node) {
    struct Visitor {
      const toml::node& n;
      bool operator()(bool* v) const { return Take(n.value_exact<bool>(), v); }
      bool operator()(int64_t* v) const { return Take(n.value_exact<int64_t>(), v); }
      bool operator()(uint64_t* v) const {
        auto value = n.value_exact<int64_t>();
        if (!value || *value < 0) return false;
        *v = static_cast<uint64_t>(*value);
        return true;
      }
      bool operator()(double* v) const {
        if (auto value = n.value_exact<int64_t>()) {
          *v = static_cast<double>(*value);
          return true;
        }
        return Take(n.value_exact<double>(), v);
      }
      bool operator()(std::optional<double>* v) const { return (*this)(&v->emplace()); }
      bool operator()(std::string* v) const { return Take(n.value_exact<std::string>(), v); }
      bool operator()(std::vector<std::string>* v) const { return TakeList(n, v); }
      bool operator()(std::vector<int64_t>* v) const { return TakeList(n, v); }
    };
    return std::visit(Visitor{node}, target);
  }

  void Set(const std::string& where, const std::string& key, const toml::node& node, const std::string& source,
           bool resolve_paths) {
    Key& k = keys.at(key);
    if (!Assign(k.target, node)) {
      const bool quoted = node.is_string() && !std::holds_alternative<std::vector<std::string>*>(k.target);
      Error(where, key, "it must be " + std::visit(TypeName{}, k.target) + (quoted ? ", without quotes" : ""));
      return;
    }
    k.source = source;
    if (resolve_paths && k.options.is_path) {
      if (auto* text = std::get_if<std::string*>(&k.target)) Resolve(*text);
      if (auto* list = std::get_if<std::vector<std::string>*>(&k.target)) {
        for (std::string& element : **list) Resolve(&element);
      }
    }
    CheckBounds(where, key, k);
  }

  void Resolve(std::string* text) const {
    if (!text->empty() && !std::filesystem::path(*text).is_absolute()) {
      *text = (folder / *text).lexically_normal().string();
    }
  }

  // Text of an environment variable or flag as a TOML value: bare words are texts, "a,b" lists of texts.
  void SetText(const std::string& where, const std::string& key, const std::string& text, const std::string& source) {
    Key& k = keys.at(key);
    std::string value = text;
    bool is_text = std::holds_alternative<std::string*>(k.target);
    bool is_list = std::holds_alternative<std::vector<std::string>*>(k.target);
    if (is_text) value = TomlText(text);
    if (is_list && (text.empty() || text[0] != '[')) {
      value = "[";
      size_t begin = 0;
      while (begin <= text.size() && !text.empty()) {
        size_t end = std::min(text.find(',', begin), text.size());
        value += (begin > 0 ? "," : "") + TomlText(text.substr(begin, end - begin));
        begin = end + 1;
      }
      value += "]";
    }
    if (std::holds_alternative<std::vector<int64_t>*>(k.target) && (text.empty() || text[0] != '['))
      value = "[" + text + "]";
    try {
      toml::table table = toml::parse("v = " + (LineTooDeep(value) == 0 ? value : ""));
      if (table.size() == 1) {
        Set(where, key, *table.get("v"), source, false);
        return;
      }
    } catch (const toml::parse_error&) {
    }
    Error(where, key, "'" + text + "' is not " + std::visit(TypeName{}, k.target));
  }

  static std::string NodeText(const toml::node& node) {
    if (auto text = node.value_exact<std::string>()) return *text;
    if (auto number = node.value_exact<int64_t>()) return std::to_string(*number);
    if (auto number = node.value_exact<double>()) return DoubleText(*number);
    if (auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
    std::ostringstream out;
    out << toml::node_view<const toml::node>(node);
    return out.str();
  }

  std::string Where(const toml::source_region& source) const { return name + ":" + std::to_string(source.begin.line); }

  void Walk(const toml::table& table, const std::string& prefix) {
    for (const auto& [raw_key, node] : table) {
      std::string key = (prefix.empty() ? "" : prefix + ".") + Snake(raw_key.str());
      std::string where = Where(raw_key.source());
      // TOML refuses equal keys, but `lora-r` and `lora_r` are two to it.
      if (table.contains(key.substr(key.rfind('.') + 1)) && raw_key.str().find('-') != std::string_view::npos) {
        Error(where, key, "this key stands twice, as '" + std::string(raw_key.str()) + "' and with underscores");
      } else if (keys.contains(key)) {
        Set(where, key, node, "file", true);
      } else if (auto free = tables.find(key); free != tables.end()) {
        CollectFree(where, key, node, free->second.target);
      } else if (node.is_table() && IsPrefix(key)) {
        Walk(*node.as_table(), key);
      } else if (IsPrefix(key)) {
        Error(where, key, "it must be a table: [" + key + "]");
      } else {
        UnknownKey(where, key);
      }
    }
  }

  void CollectFree(const std::string& where, const std::string& key, const toml::node& node,
                   std::map<std::string, std::string>* target) {
    if (!node.is_table()) return Error(where, key, "it must be a table: [" + key + "]");
    CollectTable(*node.as_table(), "", target);
  }

  static void CollectTable(const toml::table& table, const std::string& prefix,
                           std::map<std::string, std::string>* target) {
    for (const auto& [raw_key, element] : table) {
      std::string name = prefix + Snake(raw_key.str());
      if (element.is_table()) {
        CollectTable(*element.as_table(), name + ".", target);
      } else {
        (*target)[name] = NodeText(element);
      }
    }
  }

  // The free-form table that the dotted key lies in, or tables.end().
  auto FreeTableOf(const std::string& key) const {
    return std::find_if(tables.begin(), tables.end(), [&](const auto& t) { return key.starts_with(t.first + "."); });
  }

  void ApplyEnvironment() {
    for (auto& [key, k] : keys) {
      std::string variable = EnvironmentName(key);
      const char* value = std::getenv(variable.c_str());
      if (value != nullptr) SetText("environment " + variable, key, value, "environment");
    }
    // One that is nearly one of ours is a mistake; others that begin with HEDDLE_ belong to other programs.
    std::vector<std::string> known;
    for (const auto& [key, k] : keys) known.push_back(EnvironmentName(key));
    for (const auto& [name, right] : MistypedVariables(known)) {
      Error("environment", name, "no key is set by it; did you mean '" + right + "'?");
    }
  }

  void ApplyOverrides(const std::map<std::string, std::string>& overrides) {
    for (const auto& [raw_key, value] : overrides) {
      std::string key = Snake(raw_key);
      if (keys.contains(key)) {
        SetText("flag", key, value, "flag");
      } else if (const auto table = tables.find(key); table != tables.end()) {
        SetTable(key, value, table->second.target);
      } else {
        auto free = FreeTableOf(key);
        if (free != tables.end()) {
          flag_keys.insert(key);
          (*free->second.target)[key.substr(free->first.size() + 1)] = value;
        } else {
          UnknownKey("flag", key);
        }
      }
    }
  }

  // A whole free-form table from a flag, "{ a = 1 }", in place of the file's.
  void SetTable(const std::string& key, const std::string& text, std::map<std::string, std::string>* target) {
    try {
      const toml::table parsed = toml::parse("v = " + (LineTooDeep(text) == 0 ? text : ""));
      if (const toml::table* table = parsed.get_as<toml::table>("v"); table != nullptr && parsed.size() == 1) {
        target->clear();
        CollectTable(*table, "", target);
        for (const auto& [name, value] : *target) flag_keys.insert(key + "." + name);
        return;
      }
    } catch (const toml::parse_error&) {
    }
    Error("flag", key, "'" + text + "' is not a table: write { name = value }, or " + key + ".name=value");
  }

  Status Finish() {
    for (const auto& [key, k] : keys) {
      if (k.options.required && k.source == "default") {
        Error(name, key, "this key is required: " + k.options.help);
      }
    }
    if (errors.empty()) return OkStatus();
    std::string message = "the " + what + " configuration has " +
                          (errors.size() == 1 ? "a mistake" : std::to_string(errors.size()) + " mistakes");
    for (const std::string& error : errors) message += "\n  " + error;
    return InvalidArgument(std::move(message));
  }
};

ConfigSchema::ConfigSchema(std::string what) : impl_(std::make_unique<Impl>()) { impl_->what = std::move(what); }
ConfigSchema::~ConfigSchema() = default;
ConfigSchema::ConfigSchema(ConfigSchema&&) noexcept = default;

void ConfigSchema::Bind(std::string key, Target target, ConfigKeyOptions options) {
  Key bound{.target = target, .options = std::move(options), .source = "default", .default_json = ""};
  if (bound.options.silent_default) bound.default_json = json::serialize(ToJson(target));
  bool inserted = impl_->keys.emplace(std::move(key), std::move(bound)).second;
  HEDDLE_ASSERT(inserted, "a configuration key is bound twice");
}

void ConfigSchema::BindTable(std::string key, std::map<std::string, std::string>* target, std::string help) {
  bool inserted = impl_->tables.emplace(std::move(key), TableKey{target, std::move(help)}).second;
  HEDDLE_ASSERT(inserted, "a configuration table is bound twice");
}

Status ConfigSchema::LoadFile(const std::filesystem::path& path, const std::map<std::string, std::string>& overrides,
                              bool use_environment) {
  const Result<std::string> text = ReadFile(path, size_t{4} << 20);
  if (!text.ok()) return {text.status().code(), text.status().message() + "; check the path of the " + impl_->what};
  std::error_code error;
  std::filesystem::path absolute = std::filesystem::absolute(path, error);
  impl_->folder = error ? path.parent_path() : absolute.parent_path();
  return LoadText(*text, path.string(), overrides, use_environment);
}

void ConfigSchema::SetFolder(std::filesystem::path folder) { impl_->folder = std::move(folder); }

Status ConfigSchema::LoadText(std::string_view toml_text, std::string_view name,
                              const std::map<std::string, std::string>& overrides, bool use_environment) {
  impl_->errors.clear();
  impl_->name = std::string(name);
  if (const size_t line = LineTooDeep(toml_text); line > 0) {
    return InvalidArgument(impl_->name + ":" + std::to_string(line) +
                           ": this is not valid TOML: a key has too many parts");
  }
  try {
    impl_->Walk(toml::parse(toml_text, name), "");
  } catch (const toml::parse_error& error) {
    return InvalidArgument(impl_->Where(error.source()) +
                           ": this is not valid TOML: " + std::string(error.description()));
  }
  if (use_environment) impl_->ApplyEnvironment();
  impl_->ApplyOverrides(overrides);
  return impl_->Finish();
}

bool ConfigSchema::WasGiven(const std::string& key) const {
  const auto found = impl_->keys.find(key);
  return found != impl_->keys.end() && found->second.source != "default";
}

std::string ConfigSchema::ShowResolved() const {
  std::map<std::string, std::string> lines;
  for (const auto& [key, k] : impl_->keys) lines[key] = ValueText(ToJson(k.target)) + "  # source: " + k.source;
  for (const auto& [key, table] : impl_->tables) {
    for (const auto& [name, value] : *table.target) {
      std::string full = key + "." + name;
      lines[full] =
          json::serialize(json::string(value)) + "  # source: " + (impl_->flag_keys.contains(full) ? "flag" : "file");
    }
  }
  std::string out;
  for (const auto& [key, text] : lines) out += key + " = " + text + "\n";
  return out;
}

std::string ConfigSchema::ResolvedJson() const {
  json::object root;
  auto place = [&](const std::string& dotted, json::value value) {
    json::object* object = &root;
    size_t begin = 0;
    for (size_t dot = dotted.find('.'); dot != std::string::npos; dot = dotted.find('.', begin)) {
      json::value& child = (*object)[dotted.substr(begin, dot - begin)];
      if (!child.is_object()) child = json::object();
      object = &child.as_object();
      begin = dot + 1;
    }
    (*object)[dotted.substr(begin)] = std::move(value);
  };
  std::map<std::string, json::value> values;  // sorted: an object of Boost.JSON keeps the order of insertion
  for (const auto& [key, k] : impl_->keys) {
    json::value value = ToJson(k.target);
    if (!k.options.silent_default || json::serialize(value) != k.default_json) values[key] = std::move(value);
  }
  for (const auto& [key, table] : impl_->tables) {
    for (const auto& [name, value] : *table.target) values[key + "." + name] = json::string(value);
  }
  for (const auto& [key, value] : values) place(key, value);
  return json::serialize(root);
}

std::string ConfigSchema::Describe() const {
  std::string out;
  for (const auto& [key, k] : impl_->keys) {
    out += key + "  (" + std::visit(TypeName{}, k.target) + (k.options.required ? ", required" : "") + ", now " +
           ValueText(ToJson(k.target)) + ")\n    " + k.options.help + "\n";
  }
  for (const auto& [key, table] : impl_->tables) out += key + ".*  (table)\n    " + table.help + "\n";
  return out;
}

}  // namespace heddle
