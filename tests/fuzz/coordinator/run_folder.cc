// Any bytes as a run folder's history.jsonl at a restart: afterwards every round that ended has its line, every line
// but a torn last one that was there still is, and a second restart changes nothing.
#include <algorithm>

#include "common/safetensors.h"
#include "coordinator/service/run_files.h"
#include "tests/fuzz/scratch.h"

using heddle::fuzz::Require;
using namespace heddle;
using namespace heddle::coordinator;
namespace fs = std::filesystem;

namespace {

const RunId kRun("demo-01234567");
constexpr uint32_t kRounds = 3;

struct World {
  fuzz::Scratch scratch;
  std::unique_ptr<BlobStore> blobs;
  std::unique_ptr<Store> store;
  StoredRun run;

  World() {
    auto opened_blobs = BlobStore::Open({.root = scratch / "state"});
    Require(opened_blobs.ok(), "the test's blobs can be opened");
    blobs = *std::move(opened_blobs);
    const float one = 1;
    const Sha256Digest model = blobs->Put(SerializeSafetensors({{"x", Tensor::FromFloats({1}, {&one, 1})}})).value();
    auto opened = Store::Open(scratch / "coordinator.db");
    Require(opened.ok(), "the test's store can be opened");
    store = *std::move(opened);
    run.origin.spec.id = kRun;
    run.origin.spec.local_task = "lora_sft";
    run.run = {.id = kRun, .state = RunState::kComplete, .committed_rounds = kRounds, .model = model};
    std::vector<Record> writes = {run.run};
    for (uint32_t round = 1; round <= kRounds; ++round) {
      writes.emplace_back(
          RoundRecord{.run = kRun, .round = round, .phase = RoundPhase::kCommitted, .parent = model, .model = model});
    }
    Require(store->CreateRun(run.origin, writes).ok(), "the test's run can be stored");
  }
};

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  const std::string before(reinterpret_cast<const char*>(data), size);
  std::error_code ignored;
  const fs::path folder = world.scratch / "run";
  fs::create_directories(folder / "checkpoints", ignored);
  world.scratch.Write("run/history.jsonl", before);
  RunFiles files(folder);
  const auto repaired = files.Repair(kRun, *world.store, *world.blobs, "{}");
  Require(repaired.ok() && *repaired, "whatever the folder holds, it is mended", repaired.status().message());
  const std::string once = fuzz::ReadBack(folder / "history.jsonl");
  Require(once.empty() || once.back() == '\n', "no line is torn");
  const std::vector<std::string> kept = LinesOf(before), lines = LinesOf(once);
  auto line = lines.begin();
  for (const std::string& old : kept) {
    line = std::find(line, lines.end(), old);
    Require(line != lines.end(), "old lines stay, in their order", once);
    ++line;
  }
  Require(lines.size() <= kept.size() + kRounds, "no line is written twice", once);
  for (uint32_t round = 1; round <= kRounds; ++round) {
    Require(fs::exists(RunFiles::CheckpointFolder(folder, round), ignored), "every committed round has its checkpoint");
  }
  Require(files.Repair(kRun, *world.store, *world.blobs, "{}").ok(), "it can be mended again");
  Require(fuzz::ReadBack(folder / "history.jsonl") == once, "which changes nothing, with what is known of it", once);
  Require(RunFiles(folder).Repair(kRun, *world.store, *world.blobs, "{}").ok(), "and by another");
  Require(fuzz::ReadBack(folder / "history.jsonl") == once, "which changes nothing", once);
  return 0;
}
