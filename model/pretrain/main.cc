// heddle-pretrain: makes a small base model from the text of installed packages, in stages that leave their results in
// a work folder: corpus, tokenizer, train, export (evaluates, and writes the model folder with its card); all does
// each.
#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <iostream>

#include "common/file.h"
#include "common/logging.h"
#include "model/memory/tensor_memory.h"
#include "model/pretrain/card.h"
#include "model/pretrain/corpus.h"
#include "model/pretrain/train.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/transformer/blas_check.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr size_t kMaxCorpusBytes = size_t{1} << 30;

struct Command {
  fs::path config, work, root = "/", out;
  PretrainSettings settings;

  Status Corpus() {
    HEDDLE_ASSIGN_OR_RETURN(const model::Corpus corpus, GatherCorpus(settings, root));
    json::array counts;
    for (const SourceCount& c : corpus.counts) {
      counts.push_back({{"package", c.package}, {"files", c.files}, {"documents", c.documents}, {"bytes", c.bytes}});
      Log(Severity::kInfo, "source",
          {{"package", c.package}, {"files", c.files}, {"documents", c.documents}, {"bytes", c.bytes}});
    }
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(work / "train.txt", corpus.train));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(work / "dev.txt", corpus.dev));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(work / "test.txt", corpus.test));
    return WriteFileAtomically(work / "corpus.json", json::serialize(counts) + "\n");
  }

  Status LearnTokenizer() {
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(work / "train.txt", kMaxCorpusBytes));
    BpeTrainer trainer;
    trainer.Add(text);
    HEDDLE_ASSIGN_OR_RETURN(const std::string json,
                            trainer.Train({.vocab_size = settings.vocab_size, .special_tokens = {"<|endoftext|>"}}));
    return WriteFileAtomically(work / "tokenizer.json", json);
  }

  Result<std::shared_ptr<const Tokenizer>> LoadTokenizer() {
    HEDDLE_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Read(work));
    settings.model.bos_token_id = tokenizer->bos_id();
    settings.model.eos_token_id = tokenizer->eos_id();
    HEDDLE_RETURN_IF_ERROR(CheckTokenizerFits(settings.model, *tokenizer));
    return tokenizer;
  }

  Result<TextDataset> Data(const char* part, const Tokenizer& tokenizer) {
    HEDDLE_ASSIGN_OR_RETURN(const std::string text, ReadFile(work / part, kMaxCorpusBytes));
    return TextDataset::FromText(text, TextDataset::Format::kText, tokenizer, settings.sequence_length);
  }

  Status Train() {
    UseTensorMemory(kServerSpare);
    WarnOfSlowBlas();
    HEDDLE_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer());
    HEDDLE_ASSIGN_OR_RETURN(const TextDataset data, Data("train.txt", *tokenizer));
    Log(Severity::kInfo, "training text", {{"tokens", data.num_tokens()}, {"sequences", data.num_sequences()}});
    return Pretrain(settings, data, work / "checkpoint").status();
  }

  Status Export() {
    if (out.empty()) return InvalidArgument("export needs --out");
    HEDDLE_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer());
    HEDDLE_ASSIGN_OR_RETURN(const PretrainProgress progress, ReadProgress(work / "checkpoint"));
    HEDDLE_RETURN_IF_ERROR(ExportBf16(work / "checkpoint", out));
    HEDDLE_ASSIGN_OR_RETURN(const std::string tokenizer_json, ReadFile(work / "tokenizer.json"));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(out / "tokenizer.json", tokenizer_json));
    HEDDLE_RETURN_IF_ERROR(WriteFileAtomically(
        out / "tokenizer_config.json",
        "{\n  \"bos_token\": \"<|endoftext|>\",\n  \"eos_token\": \"<|endoftext|>\",\n  \"add_bos_token\": false,\n"
        "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n"));
    HEDDLE_ASSIGN_OR_RETURN(const CardFacts facts, Facts(*tokenizer, progress));
    Log(Severity::kInfo, "held-out loss",
        {{"model", facts.test_loss}, {"bigram", facts.ngrams.bigram}, {"unigram", facts.ngrams.unigram}});
    return WriteFileAtomically(out / "README.md", ModelCard(settings, facts));
  }

  Result<CardFacts> Facts(const Tokenizer& tokenizer, const PretrainProgress& progress) {
    CardFacts facts;
    HEDDLE_ASSIGN_OR_RETURN(const TextDataset train, Data("train.txt", tokenizer));
    HEDDLE_ASSIGN_OR_RETURN(const TextDataset dev, Data("dev.txt", tokenizer));
    HEDDLE_ASSIGN_OR_RETURN(const TextDataset test, Data("test.txt", tokenizer));
    HEDDLE_ASSIGN_OR_RETURN(facts.test_loss, EvaluateLoss(out, test, &facts.test_tokens));
    const auto test_ids = test.ids().first(static_cast<size_t>(facts.test_tokens) + 1);
    facts.test_bytes = static_cast<int64_t>(tokenizer.Decode(test_ids.subspan(1)).size());
    facts.ngrams = EvaluateNgrams(train.ids(), dev.ids(), test_ids, settings.model.vocab_size);
    facts.train_tokens = train.num_tokens();
    facts.steps = progress.step;
    facts.train_seconds = progress.seconds;
    for (const auto& [name, spec] : settings.model.WeightSpec()) facts.parameters += *NumElements(spec.shape);
    HEDDLE_ASSIGN_OR_RETURN(const std::string counts, ReadFile(work / "corpus.json"));
    json::error_code error;
    const json::value value = json::parse(counts, error);
    if (error || !value.is_array())
      return InvalidArgument((work / "corpus.json").string() + " is not a list: run the corpus stage");
    for (const json::value& item : value.get_array()) {
      facts.counts.push_back({json::value_to<std::string>(item.at("package")), item.at("files").to_number<uint64_t>(),
                              item.at("documents").to_number<uint64_t>(), item.at("bytes").to_number<uint64_t>()});
    }
    return facts;
  }

  Status Run(const std::string& stage) {
    HEDDLE_ASSIGN_OR_RETURN(settings, PretrainSettings::Read(config));
    HEDDLE_RETURN_IF_ERROR(MakeDirectories(work));
    const bool all = stage == "all";
    if (all || stage == "corpus") HEDDLE_RETURN_IF_ERROR(Corpus());
    if (all || stage == "tokenizer") HEDDLE_RETURN_IF_ERROR(LearnTokenizer());
    if (all || stage == "train") HEDDLE_RETURN_IF_ERROR(Train());
    if (all || stage == "export") HEDDLE_RETURN_IF_ERROR(Export());
    return OkStatus();
  }
};

int Main(int argc, char** argv) {
  CLI::App app("Makes a small base model from the text of installed packages", "heddle-pretrain");
  Command command;
  app.add_option("--config", command.config, "pretrain.toml")->required();
  app.add_option("--work", command.work, "folder for text, tokenizer and checkpoints")->required();
  app.add_option("--root", command.root, "where the packages are unpacked (default /)");
  app.add_option("--out", command.out, "model folder to write (export, all)");
  std::string stage;
  app.add_option("stage", stage, "corpus, tokenizer, train, export or all")
      ->required()
      ->check(CLI::IsMember({"corpus", "tokenizer", "train", "export", "all"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const Status status = command.Run(stage);
  if (status.ok()) return 0;
  std::cerr << "heddle-pretrain: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace heddle::model

int main(int argc, char** argv) {
  try {
    return heddle::model::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "heddle-pretrain: " << error.what() << "\n";
    return 1;
  }
}
