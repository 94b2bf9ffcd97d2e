#include "simulator/corpus/kjv.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "common/file.h"
#include "common/subprocess.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHeldOutEvery = 20;

// The last book of each part, as `bible` abbreviates it, in the Bible's order.
struct Bound {
  const char* last_book;
  const char* part;
};
constexpr Bound kBounds[] = {
    {"Deu", "law"}, {"Est", "history"}, {"SSol", "wisdom"}, {"Mal", "prophets"}, {"Rev", "new-testament"}};

struct Chapter {
  std::string book;
  std::string text;
};

// "Ge1:1 In the beginning" -> book "Ge", chapter "1", text.
bool SplitVerse(std::string_view line, std::string_view* book, std::string_view* chapter, std::string_view* text) {
  const size_t colon = line.find(':');
  const size_t space = line.find(' ');
  if (colon == std::string_view::npos || space == std::string_view::npos || colon > space) return false;
  size_t digits = colon;
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(line[digits - 1]))) --digits;
  if (digits == 0 || digits == colon) return false;
  *book = line.substr(0, digits);
  *chapter = line.substr(digits, colon - digits);
  *text = line.substr(space + 1);
  return true;
}

Result<std::vector<Chapter>> Chapters(std::string_view verses) {
  std::vector<Chapter> chapters;
  std::string current;
  while (!verses.empty()) {
    const size_t end = verses.find('\n');
    const std::string_view line = verses.substr(0, end);
    verses.remove_prefix(end == std::string_view::npos ? verses.size() : end + 1);
    if (line.empty()) continue;
    std::string_view book, chapter, text;
    if (!SplitVerse(line, &book, &chapter, &text)) {
      return DataLoss("the text of the Bible has a line that is not a verse: " + std::string(line.substr(0, 60)));
    }
    const std::string name = std::string(book) + " " + std::string(chapter);
    if (name != current) {
      chapters.push_back({std::string(book), ""});
      current = name;
    }
    std::string& out = chapters.back().text;
    if (!out.empty()) out += ' ';
    out += text;
  }
  return chapters;
}

Result<std::string> ReadVerses() {
  SubprocessOptions options;
  options.argv = {"bible", "-l100000", "-f", "gen1:1-rev22:21"};
  options.pipe_stdout = true;
  auto process = Subprocess::Start(options);
  if (!process.ok()) {
    return NotFound("the King James Bible is missing; install it with: apt-get install bible-kjv bible-kjv-text");
  }
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  for (;;) {
    const ssize_t n = ::read(process->stdout_fd(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read what `bible` prints");
    if (n == 0) break;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
  if (process->Wait() != 0 || text.size() < 4'000'000) {
    return DataLoss("`bible` did not print the whole text; install bible-kjv-text again");
  }
  return text;
}

}  // namespace

const std::vector<KjvPart>& KjvParts() {
  static const std::vector<KjvPart> parts = {{"law", "Genesis to Deuteronomy"},
                                             {"history", "Joshua to Esther"},
                                             {"wisdom", "Job to Song of Solomon"},
                                             {"prophets", "Isaiah to Malachi"},
                                             {"new-testament", "Matthew to Revelation"}};
  return parts;
}

Result<KjvFiles> WriteKjvFrom(std::string_view verses, const fs::path& folder, const std::vector<std::string>& names) {
  std::string known;
  for (const KjvPart& part : KjvParts()) known += (known.empty() ? "" : ", ") + part.name;
  for (const std::string& name : names) {
    const auto same = [&](const KjvPart& part) { return part.name == name; };
    if (std::none_of(KjvParts().begin(), KjvParts().end(), same)) {
      return NotFound("the King James Bible has no part '" + name + "'; it has " + known);
    }
  }
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<Chapter> chapters, Chapters(verses));
  std::map<std::string, std::string> texts;
  std::string heldout;
  size_t bound = 0;
  for (size_t i = 0; i < chapters.size(); ++i) {
    if (bound == std::size(kBounds)) return DataLoss("the text of the Bible goes on after Revelation");
    std::string& into = i % kHeldOutEvery == kHeldOutEvery - 1 ? heldout : texts[kBounds[bound].part];
    into += chapters[i].text + "\n\n";
    const bool last_of_book = i + 1 == chapters.size() || chapters[i + 1].book != chapters[i].book;
    if (last_of_book && chapters[i].book == kBounds[bound].last_book) ++bound;
  }
  if (bound != std::size(kBounds)) {
    return DataLoss("the text of the Bible lacks the end of the part '" + std::string(kBounds[bound].part) + "'");
  }
  HEDDLE_RETURN_IF_ERROR(MakeDirectories(folder));
  KjvFiles files;
  std::string all;
  for (const std::string& name : names) {
    files.parts.push_back(folder / (name + ".txt"));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(files.parts.back(), texts.at(name)));
    all += texts.at(name);
  }
  files.heldout = folder / "heldout.txt";
  files.all = folder / "all.txt";
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(files.heldout, heldout));
  HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(files.all, all));
  return files;
}

Result<KjvFiles> WriteKjv(const fs::path& folder, const std::vector<std::string>& names) {
  HEDDLE_ASSIGN_OR_RETURN(const std::string verses, ReadVerses());
  return WriteKjvFrom(verses, folder, names);
}

}  // namespace heddle::simulator
