#include "model/pretrain/corpus.h"

#include <zlib.h>

#include <algorithm>
#include <unordered_set>

#include "common/digest.h"
#include "common/file.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr size_t kDocumentBytes = 2000;  // consecutive paragraphs of a file are joined up to about this length

// Plain or gzip (zlib reads both).
Result<std::string> ReadMaybeCompressed(const fs::path& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return NotFound("cannot open " + path.string());
  std::string out;
  std::vector<char> buffer(size_t{1} << 16);
  int got = 0;
  while ((got = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0 && out.size() < kMaxFileBytes) {
    out.append(buffer.data(), static_cast<size_t>(got));
  }
  gzclose(file);
  if (got < 0) return DataLoss("cannot unpack " + path.string());
  return out;
}

// The regular files of a source in path order.
Result<std::vector<fs::path>> FilesOf(const CorpusSource& source, const fs::path& root) {
  std::vector<fs::path> files;
  const auto consider = [&](const fs::path& path) {
    std::string name = path.filename().string();
    for (const char* packed : {".gz", ".dz"}) {
      if (name.ends_with(packed) && !source.ending.ends_with(packed)) name.resize(name.size() - 3);
    }
    const std::string whole = path.string();
    const bool excluded = std::any_of(source.exclude.begin(), source.exclude.end(),
                                      [&](const std::string& part) { return whole.find(part) != std::string::npos; });
    if (name.ends_with(source.ending) && !excluded) files.push_back(path);
  };
  std::error_code error;
  for (const std::string& path : source.paths) {
    const fs::path full = root / path;
    if (fs::is_regular_file(full, error)) consider(full);
    if (!fs::is_directory(full, error)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(full, error)) {
      if (entry.is_regular_file(error)) consider(entry.path());
    }
  }
  if (files.empty()) {
    return NotFound("no text of package " + source.package + " under " + root.string() + ": run `apt install " +
                    source.package + "`");
  }
  std::sort(files.begin(), files.end());
  return files;
}

class Collector {
 public:
  explicit Collector(Corpus* corpus) : corpus_(corpus) {}

  void AddFile(const std::vector<std::string>& paragraphs, SourceCount* count) {
    ++count->files;
    std::string document;
    for (const std::string& paragraph : paragraphs) {
      if (!seen_.insert(Sha256(paragraph)).second) continue;
      document += (document.empty() ? "" : "\n") + paragraph;
      if (document.size() >= kDocumentBytes) AddDocument(&document, count);
    }
    AddDocument(&document, count);
  }

 private:
  void AddDocument(std::string* document, SourceCount* count) {
    if (document->empty()) return;
    ++count->documents;
    count->bytes += document->size();
    const unsigned part = Sha256(*document).bytes()[0];  // 0..255
    std::string& target = part < 5 ? corpus_->test : part < 8 ? corpus_->dev : corpus_->train;
    target += *document + "\n\n";
    document->clear();
  }

  Corpus* corpus_;
  std::unordered_set<Sha256Digest> seen_;
};

}  // namespace

Result<Corpus> GatherCorpus(const PretrainSettings& settings, const fs::path& root) {
  Corpus corpus;
  Collector collector(&corpus);
  for (const CorpusSource& source : settings.sources) {
    SourceCount count{source.package};
    HEDDLE_ASSIGN_OR_RETURN(const std::vector<fs::path> files, FilesOf(source, root));
    for (const fs::path& file : files) {
      HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadMaybeCompressed(file));
      HEDDLE_ASSIGN_OR_RETURN(const std::vector<std::string> paragraphs, ExtractParagraphs(text, source.format));
      collector.AddFile(paragraphs, &count);
    }
    corpus.counts.push_back(std::move(count));
  }
  return corpus;
}

}  // namespace heddle::model
