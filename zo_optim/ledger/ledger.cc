#include "zo_optim/ledger/ledger.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "common/assert.h"
#include "common/random.h"
#include "zo_optim/ledger/bits.h"

namespace heddle::zo {
namespace {

constexpr std::string_view kLedgerMagic = "HDLG", kPatchMagic = "HDLP";
constexpr uint64_t kSeedStream = 0x7a6f5f7365656473;  // "zo_seeds"
constexpr int64_t kMaxN = (int64_t{1} << 40) - 1;

Status CheckEntries(const Ledger& ledger) {
  if (ledger.entries.size() > kMaxLedgerEntries) return InvalidArgument("the ledger has too many entries");
  const LedgerEntry* before = nullptr;
  for (const LedgerEntry& entry : ledger.entries) {
    if (before != nullptr && entry.ref <= before->ref) return InvalidArgument("the ledger's entries are not in order");
    if (entry.n == 0 || entry.n > kMaxN || entry.n < -kMaxN) {
      return InvalidArgument("the ledger's entry " + std::to_string(entry.ref) + " has no scale, or too large a one");
    }
    before = &entry;
  }
  const uint64_t limit = ledger.head.pool_size > 0 ? ledger.head.pool_size - 1 : kMaxRef;
  if (before != nullptr && before->ref > limit) {
    return InvalidArgument("the ledger names the direction " + std::to_string(before->ref) + " of " +
                           std::to_string(limit + 1));
  }
  return OkStatus();
}

// Refs as the gaps between them, and the numbers that go with them.
void PutEntries(std::span<const LedgerEntry> entries, std::string* out) {
  std::vector<uint64_t> gaps, values;
  uint64_t next = 0;
  for (const LedgerEntry& entry : entries) {
    gaps.push_back(entry.ref - next);
    values.push_back(ZigZag(entry.n));
    next = entry.ref + 1;
  }
  PutVarint(entries.size(), out);
  PutNumbers(gaps, out);
  PutNumbers(values, out);
}

Result<std::vector<LedgerEntry>> GetEntries(ByteReader& reader) {
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t count, reader.Varint());
  if (count > kMaxLedgerEntries) return InvalidArgument("there are too many entries");
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<uint64_t> gaps, GetNumbers(reader, count));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<uint64_t> values, GetNumbers(reader, count));
  std::vector<LedgerEntry> entries;
  entries.reserve(count);
  uint64_t next = 0;
  for (size_t i = 0; i < count; ++i) {
    if (gaps[i] > kMaxRef || next + gaps[i] > kMaxRef) return InvalidArgument("a direction's number is too large");
    next += gaps[i];
    entries.push_back({next++, UnZigZag(values[i])});
  }
  return entries;
}

void PutHead(const LedgerHead& head, std::string* out) {
  PutFixed(static_cast<uint8_t>(head.distribution), 1, out);
  PutFixed(head.resolution_bits, 1, out);
  PutFixed(head.seed, 8, out);
  PutVarint(head.pool_size, out);
  PutFixed(std::bit_cast<uint64_t>(head.epsilon), 8, out);
  *out += head.start.raw();
}

Result<Sha256Digest> GetDigest(ByteReader& reader) {
  HEDDLE_ASSIGN_OR_RETURN(const auto bytes, reader.Bytes(Sha256Digest::kSize));
  return Sha256Digest::FromBytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

Result<LedgerHead> GetHead(ByteReader& reader) {
  LedgerHead head;
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t distribution, reader.Fixed(1));
  if (distribution != 1 && distribution != 2) return InvalidArgument("the ledger's distribution is unknown");
  head.distribution = static_cast<Distribution>(distribution);
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t bits, reader.Fixed(1));
  if (bits < 1 || bits > 60) return InvalidArgument("the ledger's resolution is out of range");
  head.resolution_bits = static_cast<uint8_t>(bits);
  HEDDLE_ASSIGN_OR_RETURN(head.seed, reader.Fixed(8));
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t pool, reader.Varint());
  if (pool > kMaxPoolSize) return InvalidArgument("the ledger's pool is too large");
  head.pool_size = static_cast<uint32_t>(pool);
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t epsilon, reader.Fixed(8));
  head.epsilon = std::bit_cast<double>(epsilon);
  if (!(head.epsilon >= 0 && head.epsilon <= 0x1p40)) return InvalidArgument("the ledger's epsilon is out of range");
  HEDDLE_ASSIGN_OR_RETURN(head.start, GetDigest(reader));
  return head;
}

void PutVersions(std::string_view magic, std::string* out) {
  *out += magic;
  PutFixed(kLedgerVersion, 1, out);
  PutFixed(kDirectionVersion, 1, out);
}

Status GetVersions(ByteReader& reader, std::string_view magic, const char* what) {
  HEDDLE_ASSIGN_OR_RETURN(const auto bytes, reader.Bytes(magic.size()));
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    return InvalidArgument(std::string("these bytes are not ") + what);
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t version, reader.Fixed(1));
  if (version != kLedgerVersion) {
    return InvalidArgument(std::string(what) + " has version " + std::to_string(version) + "; this program knows " +
                           std::to_string(kLedgerVersion));
  }
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t directions, reader.Fixed(1));
  if (directions != kDirectionVersion) {
    return InvalidArgument("directions of version " + std::to_string(directions) + " are unknown; this program makes " +
                           std::to_string(kDirectionVersion));
  }
  return OkStatus();
}

// 0: none; 1: a byte for each seed of the pool.
void PutImportance(std::span<const uint8_t> importance, std::string* out) {
  PutFixed(importance.empty() ? 0 : 1, 1, out);
  out->append(reinterpret_cast<const char*>(importance.data()), importance.size());
}

Status GetImportance(ByteReader& reader, uint32_t pool_size, std::vector<uint8_t>* importance) {
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t kind, reader.Fixed(1));
  if (kind == 0) return OkStatus();
  if (kind != 1 || pool_size == 0) return InvalidArgument("the ledger's importance is of an unknown kind");
  HEDDLE_ASSIGN_OR_RETURN(const auto bytes, reader.Bytes(pool_size));
  importance->resize(pool_size);
  std::memcpy(importance->data(), bytes.data(), bytes.size());
  return OkStatus();
}

Result<uint32_t> GetRound(ByteReader& reader) {
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t round, reader.Varint());
  if (round > 0xffffffffU) return InvalidArgument("the ledger's round is too large");
  return static_cast<uint32_t>(round);
}

}  // namespace

Ledger EmptyLedger(const LedgerHead& head) {
  return {.head = head, .round = 0, .entries = {}, .importance = {}, .weights = {}};
}

uint64_t SeedOf(const LedgerHead& head, uint64_t ref) { return PhiloxStream(head.seed, kSeedStream).U64At(ref); }

float ScaleOf(const LedgerHead& head, int64_t n) {
  return std::ldexp(static_cast<float>(n), -static_cast<int>(head.resolution_bits));
}

std::vector<double> SeedProbabilities(std::span<const uint8_t> importance) {
  std::vector<double> shares;
  double sum = 0;
  for (const uint8_t one : importance) sum += shares.emplace_back(std::exp(one / 255.0));
  for (double& share : shares) share /= sum;
  return shares;
}

Status CheckLedger(const Ledger& ledger) {
  HEDDLE_RETURN_IF_ERROR(CheckEntries(ledger));
  if (!ledger.importance.empty() && ledger.importance.size() != ledger.head.pool_size) {
    return InvalidArgument("the ledger's importance is not of its pool's size");
  }
  return OkStatus();
}

std::string EncodeLedger(const Ledger& ledger) {
  HEDDLE_ASSERT(CheckLedger(ledger).ok(), "a ledger that is not in order");
  std::string out;
  PutVersions(kLedgerMagic, &out);
  PutHead(ledger.head, &out);
  PutVarint(ledger.round, &out);
  out += ledger.weights.raw();
  PutEntries(ledger.entries, &out);
  PutImportance(ledger.importance, &out);
  return out;
}

Result<Ledger> DecodeLedger(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  HEDDLE_RETURN_IF_ERROR(GetVersions(reader, kLedgerMagic, "a ledger"));
  Ledger ledger;
  HEDDLE_ASSIGN_OR_RETURN(ledger.head, GetHead(reader));
  HEDDLE_ASSIGN_OR_RETURN(ledger.round, GetRound(reader));
  HEDDLE_ASSIGN_OR_RETURN(ledger.weights, GetDigest(reader));
  HEDDLE_ASSIGN_OR_RETURN(ledger.entries, GetEntries(reader));
  HEDDLE_RETURN_IF_ERROR(GetImportance(reader, ledger.head.pool_size, &ledger.importance));
  if (!reader.AtEnd()) return InvalidArgument("there are bytes behind the ledger");
  HEDDLE_RETURN_IF_ERROR(CheckLedger(ledger));
  return ledger;
}

// ---- patches ----

namespace {

// What the entries of `to` have more than those of `from`.
std::vector<LedgerEntry> Changes(const Ledger& from, const Ledger& to) {
  std::vector<LedgerEntry> changes;
  auto a = from.entries.begin();
  auto b = to.entries.begin();
  while (a != from.entries.end() || b != to.entries.end()) {
    if (b == to.entries.end() || (a != from.entries.end() && a->ref < b->ref)) {
      changes.push_back({a->ref, -a->n});
      ++a;
    } else if (a == from.entries.end() || b->ref < a->ref) {
      changes.push_back(*b++);
    } else {
      if (a->n != b->n) changes.push_back({a->ref, b->n - a->n});
      ++a;
      ++b;
    }
  }
  return changes;
}

uint64_t Mark(const Ledger& ledger) {
  uint64_t mark = 0;
  for (size_t i = 0; i < 8; ++i) mark |= uint64_t{ledger.weights.bytes()[i]} << (8 * i);
  return mark;
}

}  // namespace

std::string EncodePatch(const Ledger& from, const Ledger& to) {
  HEDDLE_ASSERT(from.head == to.head, "ledgers of two runs");
  std::string out;
  PutVersions(kPatchMagic, &out);
  PutVarint(from.round, &out);
  PutFixed(Mark(from), 8, &out);
  PutVarint(to.round, &out);
  out += to.weights.raw();
  PutEntries(Changes(from, to), &out);
  PutImportance(to.importance, &out);
  return out;
}

Result<Ledger> ApplyPatch(const Ledger& from, std::span<const std::byte> patch) {
  ByteReader reader(patch);
  HEDDLE_RETURN_IF_ERROR(GetVersions(reader, kPatchMagic, "a ledger's patch"));
  HEDDLE_ASSIGN_OR_RETURN(const uint32_t round, GetRound(reader));
  HEDDLE_ASSIGN_OR_RETURN(const uint64_t mark, reader.Fixed(8));
  if (round != from.round || mark != Mark(from)) {
    return InvalidArgument("the patch is for the ledger of round " + std::to_string(round) + ", not for this one of " +
                           std::to_string(from.round));
  }
  Ledger to{.head = from.head, .round = 0, .entries = {}, .importance = {}, .weights = {}};
  HEDDLE_ASSIGN_OR_RETURN(to.round, GetRound(reader));
  HEDDLE_ASSIGN_OR_RETURN(to.weights, GetDigest(reader));
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<LedgerEntry> changes, GetEntries(reader));
  HEDDLE_RETURN_IF_ERROR(GetImportance(reader, to.head.pool_size, &to.importance));
  if (!reader.AtEnd()) return InvalidArgument("there are bytes behind the patch");
  auto a = from.entries.begin();
  for (const LedgerEntry& change : changes) {
    if (change.n == 0 || std::abs(change.n) > 2 * kMaxN)
      return InvalidArgument("a change of the patch is out of range");
    while (a != from.entries.end() && a->ref < change.ref) to.entries.push_back(*a++);
    const int64_t before = a != from.entries.end() && a->ref == change.ref ? (a++)->n : 0;
    if (before + change.n != 0) to.entries.push_back({change.ref, before + change.n});
  }
  to.entries.insert(to.entries.end(), a, from.entries.end());
  HEDDLE_RETURN_IF_ERROR(CheckLedger(to));
  return to;
}

}  // namespace heddle::zo
