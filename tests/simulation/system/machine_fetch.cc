// What a machine fetches, as client/daemon/link.cc and base_part.cc do it, and what of it its disk keeps.
#include <utility>

#include "client/daemon/base_part.h"
#include "client/daemon/link.h"
#include "protocol/validate.h"
#include "tests/simulation/system/ledgers.h"
#include "tests/simulation/system/machine.h"

namespace heddle::system_simulation {
namespace {

Status NoSpace() { return ResourceExhausted("no space left on the device"); }

// What a device fetches whole, as the daemon has it.
std::vector<v1::BlobRef> WholeFiles(const v1::TaskPlan& plan) {
  std::vector<v1::BlobRef> files;
  const auto of_base = client::WholeBlobs(plan).value();
  for (const client::CachedBlob& blob : of_base) {
    files.push_back(protocol::MakeBlobRef(blob.digest, blob.size_bytes, blob.name));
  }
  files.insert(files.end(), plan.adapter().begin(), plan.adapter().end());
  return files;
}

}  // namespace

void Machine::Do(const client::Fetch& action) {
  ++operation_;
  if (unreadable_) kept_.ForgetSome(time_, 0.5);  // those that the process has not hashed before
  FetchNext(std::make_shared<const v1::TaskAssignment>(action.assignment));
}

void Machine::FetchNext(const Task& task) {
  for (const v1::BlobRef& blob : WholeFiles(task->plan())) {
    if (kept_.cache.contains(blob.sha256())) continue;
    if (blob.name() == zo::kLedgerFile && !kept_.last_ledger.empty()) return FetchLedger(task, blob);
    if (const auto part = kept_.parts.find(blob.sha256()); part != kept_.parts.end()) {
      ++checker_.counts.happened["resumed download"];
      return FetchRange(task, blob, part->second.bytes, 0);
    }
    const uint64_t first = blob.size_bytes() > 1 && time_.Chance(nature_.splits) ? blob.size_bytes() / 2 : 0;
    return FetchRange(task, blob, "", first);
  }
  if (client::FetchesPart(task->plan())) return FetchPart(task);
  if (checker_.has_ledger()) return FetchWeights(task);
  Tell(client::Fetched{});
}

// Some would rather fetch the weights than replay the ledger. Whatever hinders them, they replay.
void Machine::FetchWeights(const Task& task) {
  const v1::BlobRef& ledger = *task->plan().adapter().rbegin();
  if (ledger.name() != zo::kLedgerFile || DeriveSeed(seed_, "weights", task->assignment_id()) % 4 != 0) {
    return Tell(client::Fetched{});
  }
  const auto hex = [](const std::string& raw) { return Sha256Digest::FromBytes(raw).value().ToHex(); };
  Request request{"GET", "/v1/blobs/" + hex(ledger.sha256()) + "/weights", {}, "", "weights"};
  Call(std::move(request), [this, task, hex](Result<Network::Answer> answer) {
    if (!answer.ok() || answer->status != 200) return Tell(client::Fetched{});
    const auto ref = protocol::ParseMessage<v1::BlobRef>(answer->body);
    if (!ref.ok()) return checker_.Breach("where a ledger's weights are cannot be read: " + ref.status().message());
    Request blob{"GET", "/v1/blobs/" + hex(ref->sha256()), {}, "", "fetch"};
    Call(std::move(blob), [this, task, ref = *ref](Result<Network::Answer> weights) {
      if (weights.ok() && weights->status == 200) {
        if (Sha256(weights->body).raw() != ref.sha256() || weights->body.size() != ref.size_bytes())
          return checker_.Breach("a device was sent other bytes than it asked for");
        const std::string wrong =
            WhyNotWeights(kept_.ledgers[task->plan().adapter().rbegin()->sha256()], weights->body);
        if (!wrong.empty()) return checker_.Breach("a ledger's weights are not those that it names: " + wrong);
        ++checker_.counts.happened["weights in place of a replay"];
      }
      Tell(client::Fetched{});
    });
  });
}

// The rest of a device that computes with a part of the base model: of its file the tensors that it needs.
void Machine::FetchPart(const Task& task) {
  const auto& trees = task->plan().tensor_trees();
  const auto& layers = task->plan().train().layers();
  std::string which;
  for (const v1::BlobRef& tree : trees) which += tree.sha256();
  for (const uint32_t layer : layers) which += ' ' + std::to_string(layer);
  Tensors& tensors = parts_[which];
  if (tensors == nullptr) {
    auto part = client::PartOf(task->plan(), [this](const client::CachedBlob& blob, size_t) -> Result<std::string> {
      const auto found = kept_.places.find(std::string(blob.digest.raw()));
      if (found == kept_.places.end()) return NotFound(blob.name + " is not at hand");
      return found->second;
    });
    if (!part.ok()) return checker_.Breach("a device cannot tell its part: " + part.status().ToString());
    tensors = std::make_shared<const std::vector<model::TensorFile>>(std::move(part->tensors));
  }
  FetchTensor(task, tensors, 0);
}

// Each in one range, to be what the tree says.
void Machine::FetchTensor(const Task& task, Tensors tensors, size_t at) {
  while (at < tensors->size() && kept_.cache.contains(std::string((*tensors)[at].digest.raw()))) ++at;
  if (at == tensors->size()) return Tell(client::Fetched{});
  const model::TensorFile& next = (*tensors)[at];
  Request request{"GET", "/v1/blobs/" + next.source_digest.ToHex(), {}, "", "tensor"};
  request.headers.emplace_back(
      "Range", "bytes=" + std::to_string(next.begin) + "-" + std::to_string(next.begin + next.bytes - 1));
  Call(std::move(request), [this, task, tensors = std::move(tensors), at](Result<Network::Answer> answer) {
    if (!answer.ok() || answer->status != 206) return Failed(answer);
    const model::TensorFile& asked = (*tensors)[at];
    if (Sha256(asked.head + answer->body) != asked.digest)
      return checker_.Breach("a device was sent other bytes than the tensor that it asked for");
    if (full_) return Failed(NoSpace());
    ++checker_.counts.tensors;
    kept_.cache.emplace(asked.digest.raw());
    FetchTensor(task, tensors, at + 1);
  });
}

// Fetches on from `have`, up to `until` (0: to the end).
void Machine::FetchRange(const Task& task, const v1::BlobRef& blob, std::string have, uint64_t until) {
  const Sha256Digest digest = protocol::DigestOf(blob).value();
  Request request{"GET", "/v1/blobs/" + digest.ToHex(), {}, "", "fetch"};
  if (!have.empty() || until > 0) {
    request.headers.emplace_back("Range", "bytes=" + std::to_string(have.size()) + "-" +
                                              (until > 0 ? std::to_string(until - 1) : std::string()));
  }
  const auto received = [this, blob, have](const Network::Answer& head, std::string_view bytes) {
    if (full_ || (head.status != 200 && head.status != 206)) return;
    MachineDisk::Part& part = kept_.parts[blob.sha256()];
    part.bytes = head.status == 206 ? have : "";
    part.bytes += bytes;
    part.torn = part.torn && head.status == 206;
  };
  const auto heard = [this, task, blob, have, digest](Result<Network::Answer> answer) {
    if (!answer.ok() || (answer->status != 200 && answer->status != 206)) return Failed(answer);
    if (full_) return Failed(NoSpace());
    const std::string all = answer->status == 206 ? have + answer->body : answer->body;
    if (all.size() < blob.size_bytes()) return FetchRange(task, blob, all, 0);
    const auto part = kept_.parts.extract(blob.sha256());
    if (Sha256(all) == digest) {
      Got(blob, all);
    } else if (part.empty() || !part.mapped().torn) {
      return checker_.Breach("a device was sent other bytes than it asked for");
    }
    FetchNext(task);
  };
  Call(std::move(request), heard, received);
}

void Machine::Got(const v1::BlobRef& blob, const std::string& bytes) {
  kept_.cache.insert(blob.sha256());
  const bool place = blob.name() == "config.json" || blob.name().ends_with(model::kTensorTreeEnding);
  if (place && checker_.has_layers()) kept_.places[blob.sha256()] = bytes;
  if (blob.name() != zo::kLedgerFile) return;
  kept_.ledgers[blob.sha256()] = bytes;
  kept_.last_ledger = blob.sha256();
}

// What has changed since the newest ledger that it has; where that cannot be had, the whole.
void Machine::FetchLedger(const Task& task, const v1::BlobRef& blob) {
  const auto hex = [](const std::string& raw) { return Sha256Digest::FromBytes(raw).value().ToHex(); };
  Request request{"GET", "/v1/blobs/" + hex(blob.sha256()) + "/from/" + hex(kept_.last_ledger), {}, "", "patch"};
  Call(std::move(request), [this, task, blob](Result<Network::Answer> answer) {
    if (!answer.ok()) return Failed(answer);
    if (answer->status != 200) return FetchRange(task, blob, "", 0);
    if (full_) return Failed(NoSpace());
    TakePatch(blob, answer->body);
    FetchNext(task);
  });
}

void Machine::TakePatch(const v1::BlobRef& blob, const std::string& patch) {
  if (kept_.cache.contains(blob.sha256()) || full_ || kept_.last_ledger.empty()) return;
  ++checker_.counts.patches;
  const auto earlier = zo::DecodeLedger(std::as_bytes(std::span(kept_.ledgers[kept_.last_ledger])));
  const auto later = zo::ApplyPatch(*earlier, std::as_bytes(std::span(patch)));
  const std::string made = later.ok() ? zo::EncodeLedger(*later) : "";
  if (Sha256(made).raw() != blob.sha256()) return checker_.Breach("a patch leads to another ledger than was asked for");
  Got(blob, made);
}

}  // namespace heddle::system_simulation
