// Configuration with precedence flag > environment (HEDDLE_…) > file > default, read from TOML. All mistakes are
// reported at once; an unknown key is an error that names the nearest known one. kebab-case keys are accepted as
// aliases of snake_case. Numbers must be finite.
//
// Life cycle: declare each key with Bind (which also gives the default: the bound variable's value); Load once; read
// the bound variables. Bound variables must outlive Load(). Not thread-safe.
//
//   ServerConfig c;
//   ConfigSchema schema("coordinator");
//   schema.Bind("listen.port", &c.port, {.help = "TCP port of the device listener", .min = 0, .max = 65535});
//   HEDDLE_RETURN_IF_ERROR(schema.LoadFile(path, overrides));
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/status.h"

namespace heddle {

struct ConfigKeyOptions {
  std::string help;  // one line; printed by Describe()
  bool required = false;
  double min = -std::numeric_limits<double>::infinity();  // numbers: inclusive bounds; strings and lists: of the length
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;  // strings: the legal values; empty: any
  bool is_path = false;              // strings: resolved relative to the file's folder
  // Left out of ResolvedJson while it has its default: for keys that were added later, so that what is derived from the
  // text of an older file (the names of runs) stays.
  bool silent_default = false;
};

class ConfigSchema {
 public:
  // `what` names the file in messages ("coordinator", "recipe").
  explicit ConfigSchema(std::string what);
  ~ConfigSchema();
  ConfigSchema(ConfigSchema&&) noexcept;

  using Target =
      std::variant<bool*, int64_t*, uint64_t*, double*, std::optional<double>*, std::string*, std::vector<std::string>*,
                   std::vector<int64_t>*>;  // an optional number has no value until the key is given
  // `key` is dotted ("lora.r"). Binding the same key twice is a bug (asserted).
  void Bind(std::string key, Target target, ConfigKeyOptions options = {});
  // Marks a whole table as free-form: its keys are collected as dotted key -> text of the value, unchecked.
  void BindTable(std::string key, std::map<std::string, std::string>* target, std::string help);

  // Overrides are {"lora.r", "16"}: from flags; of a free-form table a key of it, or all of it as TOML. Environment:
  // HEDDLE_LORA_R for key lora.r, unless `use_environment` is false. Errors: kNotFound, kInvalidArgument with every
  // mistake on a line of its own: file:line: key: sentence.
  Status LoadFile(const std::filesystem::path& path, const std::map<std::string, std::string>& overrides = {},
                  bool use_environment = true);
  Status LoadText(std::string_view toml, std::string_view name,
                  const std::map<std::string, std::string>& overrides = {}, bool use_environment = false);
  // What LoadText resolves relative paths against; LoadFile takes the file's folder. Empty: they stay as they are.
  void SetFolder(std::filesystem::path folder);

  // After a Load: whether the key was given a value, by whatever source. Of a key that is not bound: false.
  bool WasGiven(const std::string& key) const;

  // "key = value  # source: file|environment|flag|default" lines, in key order, after a Load.
  std::string ShowResolved() const;
  // The resolved values as one JSON object text, nested by the dots, keys sorted.
  std::string ResolvedJson() const;
  // A table of keys, types, defaults and help, for --help-config and the documentation.
  std::string Describe() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Overrides from "key=value" texts, as programs take with --set; of a key that stands twice the last counts. Errors:
// kInvalidArgument.
Result<std::map<std::string, std::string>> ParseSettings(const std::vector<std::string>& settings);

// The candidate with the smallest edit distance, if that distance is at most a third of the word's length plus one.
std::optional<std::string> NearestName(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace heddle
