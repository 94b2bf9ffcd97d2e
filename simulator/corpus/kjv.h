// The King James Bible, from the distribution's package bible-kjv-text (read with the `bible` program of bible-kjv),
// split over devices by book: a natural split that is far from identically distributed. Every twentieth chapter, of all
// books, is held out for evaluation and belongs to no device.
//
// Thread-safety: pure functions, except that they start a process and write files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace heddle::simulator {

// A part of the Bible that one device owns.
struct KjvPart {
  std::string name;   // a device's name: "law", "history", "wisdom", "prophets", "new-testament"
  std::string books;  // for people: "Genesis to Deuteronomy"
};
const std::vector<KjvPart>& KjvParts();

struct KjvFiles {
  std::vector<std::filesystem::path> parts;  // one a name, in the order asked for; a chapter a paragraph
  std::filesystem::path heldout;
  std::filesystem::path all;  // all parts together, for a centralised run
};

// Writes <folder>/<name>.txt, heldout.txt and all.txt. Errors: kNotFound (the package is missing, or no such part: the
// sentence says what to do), kDataLoss (the text is not the expected one), those of files.
Result<KjvFiles> WriteKjv(const std::filesystem::path& folder, const std::vector<std::string>& names);

// The same from the text that `bible -f gen1:1-rev22:21` prints: lines "Ge1:1 In the beginning …". For tests.
Result<KjvFiles> WriteKjvFrom(std::string_view verses, const std::filesystem::path& folder,
                              const std::vector<std::string>& names);

}  // namespace heddle::simulator
