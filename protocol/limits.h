// Every bound of the protocol in one place. Units in the names. A peer that goes beyond one is refused, never crashed
// on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace heddle::protocol {

inline constexpr uint32_t kProtocolVersion = 1;

inline constexpr size_t kMaxHttpHeaderBytes = size_t{16} << 10;
inline constexpr size_t kMaxTargetBytes = 2048;
inline constexpr size_t kMaxMessageBytes = size_t{1} << 20;         // any protobuf body
inline constexpr size_t kMaxEnrollMessageBytes = size_t{32} << 10;  // EnrollRequest: anybody may send one
inline constexpr size_t kMaxWorkerMessageBytes = size_t{1} << 20;
inline constexpr size_t kMaxReportMessageBytes = 512;
inline constexpr size_t kMaxInlineUpdateBytes = size_t{64} << 10;  // an update that travels inside its report
inline constexpr size_t kMaxInlinePatchBytes = size_t{64} << 10;   // of a ledger, inside an assignment
inline constexpr size_t kMaxBlobNameBytes = 128;
inline constexpr size_t kMaxBlobsPerFolder = 256;
inline constexpr size_t kMaxLocalTasks = 64;
inline constexpr size_t kMaxCsrBytes = size_t{16} << 10;
inline constexpr size_t kMaxTokenBytes = 256;
inline constexpr size_t kMaxCertificateBytes = size_t{16} << 10;  // PEM, in EnrollResponse
inline constexpr size_t kMaxNameBytes = 128;                      // run ids, names of local tasks, software versions
inline constexpr size_t kMaxDataFields = 1024;                    // columns of a device's data file
inline constexpr size_t kMaxPathBytes = 4096;                     // paths between daemon and worker
inline constexpr size_t kMaxRefusalMessageBytes = 1024;           // longer ones are cut by MakeRefusal
inline constexpr size_t kMaxWorkerErrorBytes = 4096;              // WorkerDone::message
inline constexpr uint64_t kMaxBlobBytes = uint64_t{1} << 40;
inline constexpr uint32_t kMaxRetryAfterMs = 24 * 3600 * 1000;
inline constexpr uint32_t kMaxLocalSteps = 1'000'000;
inline constexpr uint32_t kMaxRounds = 1'000'000;  // of a run, and attempts of a round
inline constexpr uint32_t kMaxBatchSize = 65'536;  // sequences, also over the batches of one step
inline constexpr size_t kMaxSettingBytes = 64;     // a setting that is a name
inline constexpr int kMaxPatterns = 64;            // in a list of DeviceRules
inline constexpr size_t kMaxPatternBytes = 256;
inline constexpr int kMaxLayers = 4096;                // of a base model
inline constexpr int kMaxUploadSteps = 8;              // of a compressed update
inline constexpr uint32_t kMaxPerturbations = 65'536;  // directions of one step, and other counts of ZerothOrder
inline constexpr uint32_t kMaxKeptFrontMb = 1U << 20;
inline constexpr size_t kMaxPatchedLedgerBytes = size_t{4} << 20;  // longer ones are fetched whole
inline constexpr uint32_t kMaxSeedPool = 1u << 20;                 // of shared seeds
inline constexpr uint64_t kMaxSeedRef = (uint64_t{1} << 48) - 1;
inline constexpr uint32_t kMaxPseudoLabels = 1u << 20;
inline constexpr uint32_t kMaxNeighbours = 1024;  // of an example, and other counts of PseudoLabels
inline constexpr size_t kMaxPromptBytes = 1024;
inline constexpr int kMaxPromptWords = 1024;
inline constexpr uint32_t kMaxSequenceLength = 1u << 20;  // tokens
inline constexpr uint32_t kMaxThreads = 1024;
inline constexpr uint64_t kMaxNumExamples = uint64_t{1} << 40;

// Of frames of split learning; what the plan lets a peer send is less.
inline constexpr uint32_t kMaxSplitRows = 65'536;                   // examples in a micro-batch
inline constexpr uint32_t kMaxSplitMicroBatches = 1024;             // of a step
inline constexpr uint64_t kMaxSplitElements = uint64_t{1} << 27;    // of a tensor at the cut
inline constexpr uint64_t kMaxSplitFrameBytes = uint64_t{1} << 30;  // any frame
inline constexpr uint64_t kMaxSplitTextBytes = 1024;
// A frame without tensors, a hello among them: its head and its text.
inline constexpr uint64_t kMaxSplitControlBytes = 52 + kMaxSplitTextBytes;

inline constexpr size_t kIoBufferBytes = size_t{256} << 10;  // pieces in which bodies move

}  // namespace heddle::protocol
