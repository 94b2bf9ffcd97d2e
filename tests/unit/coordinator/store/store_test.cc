#include "coordinator/store/store.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "coordinator/store/run_spec_json.h"
#include "tests/unit/coordinator/store/rows.h"
#include "tests/unit/coordinator/store/temp_folder.h"

namespace heddle::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    auto store = Store::Open(folder_.path() / "coordinator.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  Status Create(const std::string& id, RunState state = RunState::kRunning) {
    std::vector<Record> writes = {ARun(id, state), ARound(id, 1, 1)};
    return store_->CreateRun(AnOrigin(id), writes);
  }
  Status Apply(std::vector<Record> writes) { return store_->Apply(writes); }
  // Records the upload; the blobs that this made superfluous.
  std::vector<Sha256Digest> Unneeded(const AssignmentRecord& of, const Sha256Digest& digest, bool open = true) {
    const auto recorded = store_->RecordUpload(of.id, digest, 5, At(1));
    EXPECT_TRUE(recorded.ok()) << recorded.status();
    if (!recorded.ok()) return {};
    EXPECT_EQ(recorded->open, open);
    return recorded->unneeded;
  }

  TempFolder folder_;
  std::unique_ptr<Store> store_;
};

// ---- runs ----

TEST_F(StoreTest, GivesARunBackAsItWasCreated) {
  ASSERT_TRUE(Create("run-1").ok());
  Reopen();
  auto stored = store_->GetRun(RunId("run-1"));
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(Show(stored->run), Show(ARun("run-1")));
  EXPECT_EQ(stored->origin.recipe, AnOrigin("run-1").recipe);
  EXPECT_EQ(stored->origin.resolved_json, AnOrigin("run-1").resolved_json);
  EXPECT_EQ(stored->origin.material_json, AnOrigin("run-1").material_json);
  EXPECT_EQ(RunSpecToJson(stored->origin.spec), RunSpecToJson(FullSpec("run-1")));
}

TEST_F(StoreTest, KnowsNothingOfARunThatWasNotCreated) {
  EXPECT_EQ(store_->GetRun(RunId("none")).status().code(), Code::kNotFound);
  EXPECT_EQ(store_->LoadSnapshot(RunId("none")).status().code(), Code::kNotFound);
  EXPECT_TRUE(store_->ListRounds(RunId("none"))->empty());
  EXPECT_TRUE(store_->ListRuns()->empty());
  EXPECT_FALSE(*store_->ActiveRun());
  EXPECT_FALSE(*store_->FindAssignment(AssignmentId("none")));
}

TEST_F(StoreTest, RefusesASecondRunWithTheSameIdAndASecondRunningRun) {
  ASSERT_TRUE(Create("run-1").ok());
  EXPECT_EQ(Create("run-1").code(), Code::kAlreadyExists);
  EXPECT_EQ(Create("run-2").code(), Code::kFailedPrecondition);
  EXPECT_EQ(store_->ActiveRun()->value(), RunId("run-1"));
  ASSERT_TRUE(Apply({ARun("run-1", RunState::kComplete)}).ok());
  EXPECT_FALSE(*store_->ActiveRun());
  EXPECT_TRUE(Create("run-2").ok());
  EXPECT_EQ(Create("run-1").code(), Code::kAlreadyExists);
}

TEST_F(StoreTest, RefusesAFirstStepWithoutARowForItsRun) {
  std::vector<Record> writes = {ARound("run-1", 1, 1)};
  EXPECT_EQ(store_->CreateRun(AnOrigin("run-1"), writes).code(), Code::kInvalidArgument);
  EXPECT_TRUE(store_->ListRuns()->empty());
}

TEST_F(StoreTest, CreatesNoRunWhenOneOfItsRowsIsRefused) {
  std::vector<Record> writes = {ARun("run-1"), ARound("another", 1, 1)};
  EXPECT_EQ(store_->CreateRun(AnOrigin("run-1"), writes).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(store_->ListRuns()->empty());
}

TEST_F(StoreTest, ListsRunsNewestFirst) {
  for (const char* id : {"b", "c", "a"}) ASSERT_TRUE(Create(id, RunState::kStopped).ok());
  std::vector<std::string> ids;
  auto runs = store_->ListRuns();
  for (const RunRecord& run : *runs) ids.push_back(run.id.value());
  EXPECT_THAT(ids, ElementsAre("a", "c", "b"));
}

// ---- writes of a step ----

TEST_F(StoreTest, AppliesAllRowsOfAStepOrNone) {
  ASSERT_TRUE(Create("run-1").ok());
  Status status = Apply({ARun("run-1", RunState::kFailed), AnAssignment("run-1", 1, 1, "a"),
                         AnAssignment("run-1", 9, 1, "a")});  // of a round that does not exist
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
  EXPECT_EQ(store_->ActiveRun()->value(), RunId("run-1"));
  EXPECT_TRUE(store_->ListAssignments(RunId("run-1"), 1, 1)->empty());
}

TEST_F(StoreTest, RefusesRowsOfARunThatDoesNotExist) {
  EXPECT_EQ(Apply({ARun("none")}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(Apply({ARound("none", 1, 1)}).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(Apply({}).ok());
}

TEST_F(StoreTest, KeepsEveryFieldOfEveryRow) {
  ASSERT_TRUE(Create("run-1").ok());
  ASSERT_TRUE(Apply({ARound("run-1", 2, 3), AnAssignment("run-1", 2, 3, "a")}).ok());
  Reopen();
  auto rounds = store_->ListRounds(RunId("run-1"));
  ASSERT_EQ(rounds->size(), 2U);
  EXPECT_EQ(Show(rounds->at(1)), Show(ARound("run-1", 2, 3)));
  AssignmentRecord expected = AnAssignment("run-1", 2, 3, "a");
  EXPECT_EQ(Show(store_->ListAssignments(RunId("run-1"), 2, 3)->at(0)), Show(expected));
  EXPECT_EQ(Show(**store_->FindAssignment(expected.id)), Show(expected));
}

TEST_F(StoreTest, KeepsNumbersThatAreNone) {
  ASSERT_TRUE(Create("run-1").ok());
  AssignmentRecord row = AnAssignment("run-1", 1, 1, "a");
  row.metrics.train_loss = std::nan("");
  row.metrics.last_loss = INFINITY;
  ASSERT_TRUE(Apply({row}).ok());
  auto stored = store_->FindAssignment(row.id);
  EXPECT_TRUE(std::isnan((*stored)->metrics.train_loss));
  EXPECT_EQ((*stored)->metrics.last_loss, INFINITY);
}

TEST_F(StoreTest, ReplacesARowButNotWhatItWasGivenOutAs) {
  ASSERT_TRUE(Create("run-1").ok());
  AssignmentRecord row = AnAssignment("run-1", 1, 1, "a");
  ASSERT_TRUE(Apply({row}).ok());
  AssignmentRecord decided = row;
  decided.state = AssignmentState::kAccepted;
  decided.message = "other";
  decided.metrics.steps = 99;
  ASSERT_TRUE(Apply({decided}).ok());
  EXPECT_EQ(Show(**store_->FindAssignment(row.id)), Show(decided));
  AssignmentRecord stolen = decided;
  stolen.device = DeviceId("b");
  EXPECT_EQ(Apply({stolen}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(Show(**store_->FindAssignment(row.id)), Show(decided));
}

TEST_F(StoreTest, RefusesAStepThatStartsASecondRunningRun) {
  ASSERT_TRUE(Create("run-1", RunState::kStopped).ok());
  ASSERT_TRUE(Create("run-2").ok());
  EXPECT_FALSE(Apply({ARun("run-1")}).ok());
  EXPECT_EQ(store_->ActiveRun()->value(), RunId("run-2"));
}

TEST_F(StoreTest, LoadsTheNewestAttemptWithItsAssignmentsAsTheSnapshot) {
  ASSERT_TRUE(Create("run-1").ok());
  ASSERT_TRUE(
      Apply({AnAssignment("run-1", 1, 1, "old"), ARound("run-1", 2, 1), ARound("run-1", 2, 10), ARound("run-1", 2, 9),
             AnAssignment("run-1", 2, 9, "old"), AnAssignment("run-1", 2, 10, "b"), AnAssignment("run-1", 2, 10, "a")})
          .ok());
  auto snapshot = store_->LoadSnapshot(RunId("run-1"));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(Show(snapshot->run), Show(ARun("run-1")));
  EXPECT_EQ(Show(*snapshot->round), Show(ARound("run-1", 2, 10)));
  std::set<std::string> devices;
  for (const AssignmentRecord& row : snapshot->assignments) devices.insert(row.device.value());
  EXPECT_THAT(devices, ElementsAre("a", "b"));
  EXPECT_LT(snapshot->assignments[0].id, snapshot->assignments[1].id);
}

TEST_F(StoreTest, LoadsASnapshotThatTheEngineTakes) {
  RunSpec spec = FullSpec("run-1");
  Step first;
  auto engine = Engine::Create(spec, Sha256("initial"), At(0), &first);
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE(store_->CreateRun(AnOrigin("run-1"), first.writes).ok());
  for (PollToken i = 0; i < spec.min_available_devices; ++i) {
    Step step = engine->Handle(
        At(0), CheckinEvent{.token = i, .device = DeviceId("d" + std::to_string(i)), .local_tasks = {spec.local_task}});
    ASSERT_TRUE(store_->Apply(step.writes).ok());
  }
  ASSERT_EQ(engine->open(), SelectionTarget(spec, 1));
  auto stored = store_->GetRun(RunId("run-1"));
  auto restored = Engine::Restore(stored->origin.spec, *store_->LoadSnapshot(RunId("run-1")), At(1), &first);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_EQ(restored->assignments().size(), engine->assignments().size());
  for (const auto& [id, row] : engine->assignments()) EXPECT_EQ(Show(restored->assignments().at(id)), Show(row));
}

TEST_F(StoreTest, NamesTheBlobsThatRowsNeedOnceEach) {
  ASSERT_TRUE(Create("run-1").ok());
  RoundRecord abandoned = ARound("run-1", 1, 1, RoundPhase::kAbandoned);
  abandoned.model = {};
  RoundRecord committed = ARound("run-1", 1, 2, RoundPhase::kCommitted);
  committed.parent = abandoned.parent;
  RoundRecord open = ARound("run-1", 2, 1);
  open.parent = committed.model;
  open.model = {};
  AssignmentRecord counted = AnAssignment("run-1", 1, 2, "a", AssignmentState::kAccepted);
  AssignmentRecord folded = AnAssignment("run-1", 2, 1, "a", AssignmentState::kAccepted);
  ASSERT_TRUE(Apply({abandoned, committed, open, counted, folded,
                     AnAssignment("run-1", 1, 1, "a", AssignmentState::kAccepted),  // of an abandoned attempt
                     AnAssignment("run-1", 1, 2, "b", AssignmentState::kInvalid),
                     AnAssignment("run-1", 2, 1, "c", AssignmentState::kLate)})
                  .ok());
  std::set<Sha256Digest> expected = {ARun("run-1").model, abandoned.parent, committed.model, counted.update,
                                     folded.update};
  auto blobs = store_->ReferencedBlobs();
  ASSERT_TRUE(blobs.ok()) << blobs.status();
  EXPECT_EQ(*blobs, std::vector<Sha256Digest>(expected.begin(), expected.end()));
}

TEST_F(StoreTest, KeepsTheUpdatesOfAsManyRoundsAsItIsToldAndEveryModel) {
  ASSERT_TRUE(Create("run-1").ok());
  RunRecord run = ARun("run-1");
  run.committed_rounds = 3;
  std::vector<AssignmentRecord> counted;
  std::vector<Record> writes = {run};
  std::vector<SmallUpdate> small;
  for (uint32_t round = 1; round <= 4; ++round) {
    writes.push_back(ARound("run-1", round, 1, round <= 3 ? RoundPhase::kCommitted : RoundPhase::kCollecting));
    counted.push_back(AnAssignment("run-1", round, 1, "a", AssignmentState::kAccepted));
    writes.push_back(counted.back());
    small.push_back({counted.back().id, std::make_shared<const std::string>("update " + std::to_string(round))});
  }
  ASSERT_TRUE(store_->Apply(writes, small).ok());
  const auto kept = [&](uint32_t rounds) {
    const auto blobs = store_->ReferencedBlobs(rounds);
    EXPECT_TRUE(blobs.ok()) << blobs.status();
    std::string text;
    for (const AssignmentRecord& row : counted)
      text += std::count(blobs->begin(), blobs->end(), row.update) > 0 ? 'x' : '.';
    return text;
  };
  EXPECT_EQ(kept(0), "xxxx");
  EXPECT_EQ(kept(1), "..xx");  // the last committed round, and the open one
  EXPECT_EQ(kept(2), ".xxx");
  EXPECT_EQ(kept(100), "xxxx");
  const auto deleted = store_->DeleteSmallUpdates(2);
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ(*deleted, 1U);
  EXPECT_EQ(store_->GetSmallUpdate(counted[0].id).status().code(), Code::kNotFound);
  for (size_t i = 1; i < counted.size(); ++i) {
    EXPECT_EQ(*store_->GetSmallUpdate(counted[i].id), "update " + std::to_string(i + 1));
  }
}

TEST_F(StoreTest, RemembersWhatWasUploadedForAnAssignmentAndNamesWhatThatReplaced) {
  ASSERT_TRUE(Create("run-1").ok());
  const AssignmentRecord a = AnAssignment("run-1", 1, 1, "a", AssignmentState::kOpen);
  const AssignmentRecord b = AnAssignment("run-1", 1, 1, "b", AssignmentState::kOpen);
  ASSERT_TRUE(Apply({ARound("run-1", 1, 1), a, b}).ok());
  const Sha256Digest first = Sha256("first"), second = Sha256("second");
  EXPECT_EQ(*store_->FindUpload(a.id), std::nullopt);
  EXPECT_THAT(Unneeded(a, first), IsEmpty());
  EXPECT_EQ(*store_->FindUpload(a.id), first);
  EXPECT_EQ(*store_->FindUpload(b.id), std::nullopt);
  EXPECT_THAT(Unneeded(a, first), IsEmpty());  // the same again
  EXPECT_THAT(Unneeded(b, first), IsEmpty());
  EXPECT_THAT(Unneeded(a, second), IsEmpty());           // b needs the first
  EXPECT_THAT(Unneeded(b, second), ElementsAre(first));  // now nobody does
  const auto blobs = store_->ReferencedBlobs();
  ASSERT_TRUE(blobs.ok());
  EXPECT_EQ(std::count(blobs->begin(), blobs->end(), second), 1);
  EXPECT_EQ(std::count(blobs->begin(), blobs->end(), first), 0);
  EXPECT_EQ(store_->RecordUpload(AssignmentId("nobody's"), first, 5, At(6)).status().code(), Code::kFailedPrecondition);
}

TEST_F(StoreTest, NotesNoUploadForAnAssignmentThatIsClosed) {
  ASSERT_TRUE(Create("run-1").ok());
  const AssignmentRecord a = AnAssignment("run-1", 1, 1, "a", AssignmentState::kExpired);
  AssignmentRecord b = AnAssignment("run-1", 1, 1, "b", AssignmentState::kAccepted);
  b.update = Sha256("what was accepted");
  ASSERT_TRUE(Apply({ARound("run-1", 1, 1), a, b}).ok());
  for (const AssignmentRecord& closed : {a, b}) {
    EXPECT_THAT(Unneeded(closed, Sha256("late"), /*open=*/false), ElementsAre(Sha256("late")));
    EXPECT_EQ(*store_->FindUpload(closed.id), std::nullopt);
  }
  EXPECT_THAT(Unneeded(a, b.update, /*open=*/false), IsEmpty()) << "the round needs it";
}

// One device from round to round, in every way that a task can end.
TEST_F(StoreTest, ForgetsADevicesUploadsThatNoRoundAsksForWithItsNext) {
  ASSERT_TRUE(Create("run-1").ok());
  std::vector<AssignmentRecord> tasks;
  std::map<Sha256Digest, size_t> round_of;
  // The device's next task, its upload, and how task and attempt end; of which rounds the upload made blobs
  // superfluous.
  const auto next = [&](AssignmentState state, RoundPhase phase, bool another = false) {
    const auto round = static_cast<uint32_t>(tasks.size() + 1);
    AssignmentRecord a = AnAssignment("run-1", round, 1, "mallory", AssignmentState::kOpen);
    const Sha256Digest sent = a.update;
    round_of[sent] = round;
    EXPECT_TRUE(Apply({ARound("run-1", round, 1), a}).ok());
    std::vector<size_t> rounds;
    for (const Sha256Digest& digest : Unneeded(a, sent)) rounds.push_back(round_of.at(digest));
    a.state = state;
    if (another) a.update = Sha256("inline");
    EXPECT_TRUE(Apply({ARound("run-1", round, 1, phase), a}).ok());
    tasks.push_back(a);
    return rounds;
  };
  EXPECT_THAT(next(AssignmentState::kExpired, RoundPhase::kCommitted), IsEmpty());
  EXPECT_THAT(next(AssignmentState::kInvalid, RoundPhase::kCommitted), ElementsAre(1));
  EXPECT_THAT(next(AssignmentState::kLate, RoundPhase::kCommitted), ElementsAre(2));
  EXPECT_THAT(next(AssignmentState::kFailed, RoundPhase::kCommitted), ElementsAre(3));
  EXPECT_THAT(next(AssignmentState::kSuperseded, RoundPhase::kAbandoned), ElementsAre(4));
  EXPECT_THAT(next(AssignmentState::kAccepted, RoundPhase::kCommitted, /*another=*/true), ElementsAre(5));
  EXPECT_THAT(next(AssignmentState::kAccepted, RoundPhase::kCommitted), ElementsAre(6)) << "it had reported another";
  EXPECT_THAT(next(AssignmentState::kAccepted, RoundPhase::kCommitting), IsEmpty()) << "a round has counted it";
  EXPECT_THAT(next(AssignmentState::kOpen, RoundPhase::kCollecting), IsEmpty()) << "a round will count it";
  EXPECT_THAT(next(AssignmentState::kExpired, RoundPhase::kCommitted), IsEmpty()) << "the device is at work on it";
  for (size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(store_->FindUpload(tasks[i].id)->has_value(), i >= 6) << "round " << i + 1;
  }
  // What another device sends is its own matter.
  const AssignmentRecord other = AnAssignment("run-1", 10, 1, "b", AssignmentState::kOpen);
  ASSERT_TRUE(Apply({other}).ok());
  EXPECT_THAT(Unneeded(other, other.update), IsEmpty());
  EXPECT_TRUE(*store_->FindUpload(tasks.back().id));
}

// ---- the spec as text ----

TEST(RunSpecText, IsReadAsItWasWritten) {
  auto spec = RunSpecFromJson(RunSpecToJson(FullSpec("run-1")));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->seed, FullSpec("").seed);
  EXPECT_EQ(spec->over_selection, 1.1);
  EXPECT_EQ(spec->report_deadline, Duration(7654321));
  EXPECT_EQ(spec->max_update_bytes, uint64_t{1} << 40);
  EXPECT_EQ(spec->first_stage_rounds, 3U);
  EXPECT_EQ(spec->later_cohort_size, 16U);
  EXPECT_EQ(spec->later_min_available_devices, 17U);
  EXPECT_EQ(spec->later_min_reports, 14U);
  EXPECT_EQ(spec->layer_memory, (std::vector<uint64_t>{uint64_t{1} << 33, ~uint64_t{0}}));
}

TEST(RunSpecText, OfOneStageIsThatOfBeforeThereWereTwo) {
  RunSpec one = FullSpec("run-1");
  one.first_stage_rounds = 0;
  const std::string text = RunSpecToJson(one);
  EXPECT_EQ(text.find("later_"), std::string::npos) << text;
  EXPECT_EQ(text.find("stage"), std::string::npos) << text;
  const auto spec = RunSpecFromJson(text);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->first_stage_rounds, 0U);
  EXPECT_EQ(spec->cohort_size, 6U);
}

TEST(RunSpecText, OfARunThatDoesNotAskForMemoryIsThatOfBefore) {
  RunSpec spec = FullSpec("run-1");
  spec.layer_memory.clear();
  EXPECT_EQ(RunSpecToJson(spec).find("layer"), std::string::npos);
  EXPECT_TRUE(RunSpecFromJson(RunSpecToJson(spec))->layer_memory.empty());
}

TEST(RunSpecText, IsDamagedWhenAFieldIsMissingOrOfAnotherKind) {
  std::string good = RunSpecToJson(FullSpec("run-1"));
  auto broken = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    return RunSpecFromJson(text).status();
  };
  for (const Status& status :
       {broken("\"rounds\"", "\"sounds\""), broken("\"rounds\":5", "\"rounds\":-5"),
        broken("\"rounds\":5", "\"rounds\":4294967296"), broken("\"rounds\":5", "\"rounds\":\"5\""),
        broken("\"1.1\"", "\"1.1x\""), broken("\"1.1\"", "1.1"),
        broken("\"later_min_reports\"", "\"later_max_reports\""),
        broken("\"later_cohort_size\":16", "\"later_cohort_size\":-1"), broken("{", "["), broken("[8589934592", "[-1"),
        broken("[8589934592", "[\"1\""), RunSpecFromJson("").status()}) {
    EXPECT_EQ(status.code(), Code::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("the stored settings of a run are damaged at "));
  }
}

// ---- meta ----

TEST_F(StoreTest, KeepsSmallValues) {
  EXPECT_FALSE(*store_->GetMeta("key"));
  ASSERT_TRUE(store_->SetMeta("key", "one").ok());
  ASSERT_TRUE(store_->SetMeta("key", "two").ok());
  Reopen();
  EXPECT_EQ(**store_->GetMeta("key"), "two");
}

}  // namespace
}  // namespace heddle::coordinator::testing
