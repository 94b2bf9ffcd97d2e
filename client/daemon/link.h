// The device's calls to the coordinator, each answered with the session's event: an answer, or CallFailed with the
// refusal's reason.
//
// On one executor; one call at a time; Cancel() makes it end soon. Knows how far an upload got between its calls.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "client/daemon/blob_cache.h"
#include "client/daemon/session.h"
#include "client/daemon/short_forms.h"
#include "model/parts/tensor_tree.h"
#include "protocol/transport/client.h"

namespace heddle::client {

// What a refusing answer says; an answer without a Refusal in it is judged by its HTTP status and Retry-After.
CallFailed FailureOf(const protocol::HttpResponse& response);

// How far an upload is.
struct UploadState {
  std::string assignment_id;
  std::string location;  // empty: not known
  bool asked = false;    // a first request was sent
};

class CoordinatorLink {
 public:
  CoordinatorLink(boost::asio::any_io_executor executor, protocol::ClientOptions options);

  // In the short form (protocol/short_form.h) once it has had an assignment. A patch of the ledger that comes along
  // goes into the cache.
  boost::asio::awaitable<Event> CheckIn(std::vector<std::string> local_tasks, uint64_t memory_bytes, BlobCache* cache);
  // Fetches what the cache does not have. Resumes, verifies, and tries once more when bytes were not what they should.
  boost::asio::awaitable<Event> Fetch(std::vector<CachedBlob> blobs, BlobCache* cache);
  // Where more than `most` directions would have to be replayed to the weights of this ledger, which is in the cache:
  // fetches the weights in their place, if the coordinator has them still. Without them the device replays, so nothing
  // that fails here is told but in the log.
  boost::asio::awaitable<void> FetchWeights(CachedBlob ledger, uint64_t most, BlobCache* cache);
  // Fetches those tensors of larger blobs that the cache does not have, each verified by itself; as Fetch.
  boost::asio::awaitable<Event> FetchTensors(std::vector<model::TensorFile> tensors, BlobCache* cache);
  // Uploads the file a completed report names, from where it got to. `fresh`: nothing was sent yet, so the whole body
  // goes along with the first request; else the coordinator is asked first what it has.
  boost::asio::awaitable<Event> Upload(v1::ReportRequest report, std::filesystem::path file, bool fresh);
  // `update`: the file of a small update that travels along; empty: it was uploaded, or there is none.
  boost::asio::awaitable<Event> Report(v1::ReportRequest report, std::filesystem::path update);

  void ForgetUpload() { upload_.reset(); }
  void Cancel() { client_.Cancel(); }
  void Close() { client_.Close(); }
  uint64_t socket_bytes() const { return client_.socket_bytes(); }  // both ways, TLS included

 private:
  v1::CheckinRequest CheckinMessage(const std::vector<std::string>& local_tasks, uint64_t memory_bytes,
                                    BlobCache* cache) const;
  // Makes an assignment whole, and puts the ledger that its patch leads to into the cache.
  Result<v1::TaskAssignment> TakeAssignment(v1::TaskAssignment sent, BlobCache* cache);
  // Makes the blob from the ledger that the cache holds and what has changed since. False: fetch it whole.
  boost::asio::awaitable<bool> FetchPatch(const CachedBlob& blob, BlobCache* cache);
  static bool TakePatch(const CachedBlob& blob, std::string_view patch, BlobCache* cache);
  boost::asio::awaitable<std::optional<CallFailed>> FetchOne(const CachedBlob& blob, BlobCache* cache);
  boost::asio::awaitable<std::optional<CallFailed>> FetchTensor(const model::TensorFile& tensor, BlobCache* cache);
  boost::asio::awaitable<Result<protocol::HttpResponse>> BeginUpload(const v1::ReportRequest& report,
                                                                     const std::filesystem::path& file, bool fresh);
  // Learns Location and how much is left from an answer. Nothing: go on at `*offset`.
  std::optional<Event> UploadProgress(const protocol::HttpResponse& response, uint64_t size, uint64_t* offset);

  protocol::HttpClient client_;
  std::optional<UploadState> upload_;
  ShortForms forms_;
};

}  // namespace heddle::client
