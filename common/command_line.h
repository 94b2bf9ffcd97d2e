// What our programs make of a command line that CLI11 does not take. Header-only: programs link CLI11, libraries do
// not. Thread-safety: none needed.
#pragma once

#include <CLI/CLI.hpp>
#include <iostream>
#include <string>
#include <vector>

namespace heddle {

// Says on standard error (help and versions: on standard output) what is wrong, and returns the exit status: 0 for help
// and versions, 2 for wrong usage. CLI11 says only that a command is required where one was given that it does not
// know.
inline int ExitOfUsage(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::RequiredError) || unknown.empty()) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  std::cerr << app.get_name() << ": there is no " << (unknown.front()[0] == '-' ? "option '" : "command '")
            << unknown.front() << "'; see `" << app.get_name() << " --help`\n";
  return 2;
}

}  // namespace heddle
