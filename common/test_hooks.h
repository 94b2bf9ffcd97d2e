// Two doors for tests into production code. Both are compiled in only with HEDDLE_TEST_HOOKS (CMake: on when the tests
// are built); without it a failpoint is nothing and a planted bug is the constant false.
//
//   HEDDLE_FAILPOINT(kBlobRenamed);                  The process kills itself here (SIGKILL) when the environment says
//                                                    HEDDLE_FAILPOINT=blob-renamed, or at the n-th time here with
//                                                    HEDDLE_FAILPOINT=blob-renamed:n.
//   if (HEDDLE_PLANTED(kCountDuplicate)) { … }       True while a test of this process has planted that bug, to see
//                                                    that the suite finds it. Nothing outside the process can do so.
//
// A new point gets a line in the list below; the tests of kills and of planted bugs walk the lists, so that none is
// forgotten. Thread-safety: any thread; Plant from one thread while nothing else runs.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace heddle::test_hooks {

// X(kName, "name-in-the-environment"). Of every program, where something becomes durable or is said; of the
// coordinator; of its start on what is there (recovery-); of the device's daemon (client-) and of its enrolment
// (enroll-).
#define HEDDLE_FAILPOINTS(X)                                                                   \
  X(kNone, "")                                                                                 \
  /* Before and after each fsync, rename, commit and HTTP answer: a source rule. */            \
  X(kFileUnsynced, "file-unsynced")                                                            \
  X(kFileSynced, "file-synced")                                                                \
  X(kUnrenamed, "unrenamed")                                                                   \
  X(kRenamed, "renamed")                                                                       \
  X(kFolderUnsynced, "folder-unsynced")                                                        \
  X(kFolderSynced, "folder-synced")                                                            \
  X(kUncommitted, "uncommitted")                                                               \
  X(kCommitted, "committed")                                                                   \
  X(kUnanswered, "unanswered")                                                                 \
  X(kAnswered, "answered")                                                                     \
  /* A blob: written, fsynced, renamed, its folder fsynced. */                                 \
  X(kBlobWritten, "blob-written")                                                              \
  X(kBlobSynced, "blob-synced")                                                                \
  X(kBlobRenamed, "blob-renamed")                                                              \
  X(kBlobDurable, "blob-durable")                                                              \
  /* An upload. */                                                                             \
  X(kUploadBegun, "upload-begun")                                                              \
  X(kUploadAppended, "upload-appended")                                                        \
  X(kUploadSynced, "upload-synced")                                                            \
  X(kUploadFinished, "upload-finished")                                                        \
  X(kUploadRecorded, "upload-recorded")                                                        \
  /* The rows of an engine's step: written but not committed, committed but not acted upon. */ \
  X(kStepWritten, "step-written")                                                              \
  X(kStepCommitted, "step-committed")                                                          \
  /* A submission. */                                                                          \
  X(kRunBlobsStored, "run-blobs-stored")                                                       \
  X(kRunCreated, "run-created")                                                                \
  /* The sum and the next model. */                                                            \
  X(kUpdateFolded, "update-folded")                                                            \
  X(kModelStored, "model-stored")                                                              \
  /* A line of the audit log: written, fsynced. */                                             \
  X(kAuditWritten, "audit-written")                                                            \
  X(kAuditSynced, "audit-synced")                                                              \
  /* Answers: durable but not sent, handed to the connection. */                               \
  X(kEnrolmentCommitted, "enrolment-committed")                                                \
  X(kEnrolmentAnswered, "enrolment-answered")                                                  \
  X(kAssignmentUnsent, "assignment-unsent")                                                    \
  X(kAssignmentAnswered, "assignment-answered")                                                \
  X(kBlobAnswered, "blob-answered")                                                            \
  X(kUploadUnsent, "upload-unsent")                                                            \
  X(kUploadAnswered, "upload-answered")                                                        \
  X(kVerdictUnsent, "verdict-unsent")                                                          \
  X(kVerdictAnswered, "verdict-answered")                                                      \
  /* The run folder. */                                                                        \
  X(kHistoryWritten, "history-written")                                                        \
  X(kCheckpointHalf, "checkpoint-half")                                                        \
  X(kCheckpointWritten, "checkpoint-written")                                                  \
  X(kRunEndUnwritten, "run-end-unwritten")                                                     \
  X(kRunFileWritten, "run-file-written")                                                       \
  /* The start after a kill. */                                                                \
  X(kRecoveryStorageOpen, "recovery-storage-open")                                             \
  X(kRecoveryRunRepaired, "recovery-run-repaired")                                             \
  X(kRecoveryRunRebuilt, "recovery-run-rebuilt")                                               \
  /* The device's enrolment. */                                                                \
  X(kEnrollKeyWritten, "enroll-key-written")                                                   \
  X(kEnrollAnswered, "enroll-answered")                                                        \
  X(kEnrollCertificateHalf, "enroll-certificate-half")                                         \
  X(kEnrollAuthorityWritten, "enroll-authority-written")                                       \
  X(kEnrollDone, "enroll-done")                                                                \
  /* The device's daemon. */                                                                   \
  X(kClientAssigned, "client-assigned")                                                        \
  X(kClientBlobFetched, "client-blob-fetched")                                                 \
  X(kClientBlobCached, "client-blob-cached")                                                   \
  X(kClientBlobsLinked, "client-blobs-linked")                                                 \
  X(kClientUpdateFinished, "client-update-finished")                                           \
  X(kClientJournalUnwritten, "client-journal-unwritten")                                       \
  X(kClientJournalWritten, "client-journal-written")                                           \
  X(kClientUploadAsked, "client-upload-asked")                                                 \
  X(kClientUploaded, "client-uploaded")                                                        \
  X(kClientReportUnsent, "client-report-unsent")                                               \
  X(kClientReportAnswered, "client-report-answered")                                           \
  X(kClientJournalHalfCleared, "client-journal-half-cleared")                                  \
  X(kClientTaskEnded, "client-task-ended")

// X(kName, "what the code does wrong then")
#define HEDDLE_PLANTED_BUGS(X)                                                                \
  X(kNone, "")                                                                                \
  X(kAnswerAfterFailedWrite, "answers and acts although the transaction failed")              \
  X(kSkipDatabaseSync, "acknowledges before the database is on the disk")                     \
  X(kSkipUploadSync, "acknowledges an upload before its bytes are on the disk")               \
  X(kSkipFolderSync, "acknowledges a blob before its name is on the disk")                    \
  X(kSkipModelSync, "publishes a model before it is on the disk")                             \
  X(kSplitTransaction, "writes the rows of one step in several transactions")                 \
  X(kCountDuplicate, "counts a report again that is sent again")                              \
  X(kDecideTwice, "decides a late report anew when it is sent again")                         \
  X(kFoldInOrderOfArrival, "gives an update a weight that depends on when it came")           \
  X(kAcceptStaleRound, "accepts a report for a round that is closed")                         \
  X(kIgnoreOwner, "accepts a report on another device's assignment")                          \
  X(kIgnoreUploader, "credits a device with what another one has uploaded")                   \
  X(kRedeemTwice, "takes an enrolment token a second time")                                   \
  X(kIgnoreExpiry, "takes an enrolment token after its time")                                 \
  X(kIgnoreSerial, "lets a device in whose certificate was replaced")                         \
  X(kForgetDeadline, "gives a round a new deadline when the coordinator restarts")            \
  X(kAbandonEnough, "abandons an attempt with enough updates for want of more")               \
  X(kStopNeedsEngine, "cannot stop a run that stands still")                                  \
  X(kCallLate, "calls a report late that came in time")                                       \
  X(kWaitForStragglers, "keeps a round open beyond its deadline while a device is at work")   \
  X(kFoldTwiceOnRestore, "folds an accepted update twice after a restart")                    \
  X(kDropTailOnRestore, "forgets the last accepted update of the open round after a restart") \
  X(kForgetTries, "gives an assignment's id out again after a restart")                       \
  X(kKeepAbandonedSum, "takes the updates of an abandoned attempt into the next")             \
  X(kSkipHashCheck, "does not compare an upload with its declared digest")                    \
  X(kMixBodies, "puts the bytes of two requests to the same upload one behind the other")     \
  X(kSkipNumbersCheck, "does not look at the values of an update")                            \
  X(kIgnoreWeight, "believes whatever number of examples a device reports")                   \
  X(kCountScalarTwice, "counts the second of two scalars of one direction twice")             \
  X(kSkipStateProof, "does not look at the weights that a device has rebuilt")                \
  X(kForgetDirections, "forgets the directions that no device of the round has tried")        \
  X(kWeighAbsentDevices, "divides a layer's sum by the weight of devices without that layer") \
  X(kTakeOtherLayers, "accepts tensors of layers that the device was not asked to train")     \
  X(kGiveAllLayers, "gives a device the adapter of layers that it does not hold")             \
  X(kForgetFolder, "never writes what a run's folder could not take up when it came")         \
  X(kForgetReferences, "deletes blobs that rows name and the moment does not need")           \
  X(kDeleteWhatIsHeld, "deletes an update while a request is busy with it")                   \
  X(kPatchFromStart, "sends what has changed since the start to a device that has a ledger")

#define HEDDLE_ENUMERATOR(name, text) name,
enum class Failpoint { HEDDLE_FAILPOINTS(HEDDLE_ENUMERATOR) };
enum class PlantedBug { HEDDLE_PLANTED_BUGS(HEDDLE_ENUMERATOR) };
#undef HEDDLE_ENUMERATOR

// Whether this build has hooks at all.
bool Enabled();

// Without kNone.
std::span<const std::string_view> FailpointNames();
void Reach(Failpoint point);

std::string_view DescriptionOf(PlantedBug bug);
// How many there are, without kNone; they are numbered from 1.
int NumPlantedBugs();
void Plant(PlantedBug bug);  // kNone: none
bool IsPlanted(PlantedBug bug);

}  // namespace heddle::test_hooks

#ifdef HEDDLE_TEST_HOOKS
#define HEDDLE_FAILPOINT(name) ::heddle::test_hooks::Reach(::heddle::test_hooks::Failpoint::name)
#define HEDDLE_PLANTED(name) ::heddle::test_hooks::IsPlanted(::heddle::test_hooks::PlantedBug::name)
#else
#define HEDDLE_FAILPOINT(name) static_cast<void>(0)
#define HEDDLE_PLANTED(name) false
#endif
