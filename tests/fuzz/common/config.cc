// Any text as a configuration file: refused with every mistake named, or resolved; what ShowResolved prints is a
// configuration with the same values.
#include "common/config.h"

#include <boost/json/parse.hpp>

#include "tests/fuzz/fuzz_input.h"

using heddle::fuzz::Require;

namespace {

struct Bound {
  bool flag = false;
  int64_t port = 7443;
  uint64_t bytes = 1;
  double rate = 0.5;
  std::string name = "a", kind = "one", path;
  std::vector<std::string> names;
  std::vector<int64_t> sizes;
  std::map<std::string, std::string> free;
  heddle::ConfigSchema schema{"fuzzed"};

  Bound() {
    schema.Bind("listen.flag", &flag);
    schema.Bind("listen.port", &port, {.help = "a port", .min = 0, .max = 65535});
    schema.Bind("limits.max_bytes", &bytes, {.help = "bytes", .min = 1});
    schema.Bind("limits.rate", &rate, {.help = "a rate", .max = 1e9});
    schema.Bind("name", &name, {.help = "a name", .max = 4000});
    schema.Bind("kind", &kind, {.help = "a kind", .choices = {"one", "two"}});
    schema.Bind("data.path", &path, {.help = "a path", .is_path = true});
    schema.Bind("data.names", &names, {.help = "names", .max = 100});
    schema.Bind("data.sizes", &sizes, {.help = "sizes"});
    schema.BindTable("settings", &free, "anything");
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 8192) return 0;  // configurations are small; the TOML library is not ours to measure
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Bound first;
  // The text as a flag's value too: whatever people put there.
  Bound flags;
  (void)flags.schema.LoadText("", "f", {{"limits.rate", std::string(text)}, {"data.names", std::string(text)}});
  const heddle::Status loaded = first.schema.LoadText(text, "f");
  if (!loaded.ok()) {
    Require(loaded.code() == heddle::Code::kInvalidArgument, "a refusal is an invalid argument");
    Require(!loaded.message().empty(), "a refusal says why");
    return 0;
  }
  Require(first.port >= 0 && first.port <= 65535 && first.bytes >= 1 && first.rate <= 1e9, "bounds hold");
  Require(first.kind == "one" || first.kind == "two", "choices hold");
  boost::system::error_code error;
  boost::json::parse(first.schema.ResolvedJson(), error);
  Require(!error, "the resolved values are JSON", first.schema.ResolvedJson());
  if (!first.free.empty()) return 0;  // free-form values are printed without their types
  Bound second;
  const std::string shown = first.schema.ShowResolved();
  const heddle::Status again = second.schema.LoadText(shown, "g");
  Require(again.ok(), "what is shown can be loaded", shown + again.message());
  Require(second.schema.ResolvedJson() == first.schema.ResolvedJson(), "and has the same values", shown);
  return 0;
}
