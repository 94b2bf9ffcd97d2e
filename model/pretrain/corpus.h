// Plain English from the documentation and data files of installed packages: markup is stripped, tables, lists of names
// and code are dropped, repeated paragraphs are kept once. Deterministic: files in path order. Free of LibTorch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "model/pretrain/settings.h"

namespace heddle::model {

struct SourceCount {
  std::string package;
  uint64_t files = 0, documents = 0, bytes = 0;
};

struct Corpus {
  // Documents are separated by blank lines. Each document is in one part, chosen by its hash: test 2 %, dev 1 %.
  std::string train, dev, test;
  std::vector<SourceCount> counts;
};

// Errors: kNotFound when a source has no file (the message names the package to install), kInvalidArgument (format).
Result<Corpus> GatherCorpus(const PretrainSettings& settings, const std::filesystem::path& root);

// The paragraphs of one file's text, clean, each on one line without surrounding space. For tests.
Result<std::vector<std::string>> ExtractParagraphs(std::string_view text, std::string_view format);

}  // namespace heddle::model
