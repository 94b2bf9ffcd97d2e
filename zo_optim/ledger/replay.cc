#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "zo_optim/ledger/ledger.h"

namespace heddle::zo {

double LargestScale(const LedgerHead& head) {
  return std::max(head.epsilon, std::ldexp(1.0, 14 - static_cast<int>(head.resolution_bits)));
}

Result<Parameter> MakeParameter(std::string name, std::span<float> values, double largest_scale) {
  auto grid = Grid::For(values, largest_scale);
  if (!grid.ok()) return grid.status().Annotate("tensor '" + name + "'");
  SnapToGrid(*grid, values);
  const uint64_t stream = ParameterStream(name);
  return Parameter{std::move(name), stream, *grid, values};
}

std::vector<SeedMove> MovesBetween(const Ledger& from, const Ledger& to) {
  std::vector<SeedMove> moves;
  moves.reserve(std::max(from.entries.size(), to.entries.size()));
  const auto add = [&](uint64_t ref, int64_t before, int64_t after) {
    moves.push_back({SeedOf(to.head, ref), {ScaleOf(to.head, before), ScaleOf(to.head, after)}});
  };
  auto a = from.entries.begin();
  auto b = to.entries.begin();
  while (a != from.entries.end() || b != to.entries.end()) {
    if (b == to.entries.end() || (a != from.entries.end() && a->ref < b->ref)) {
      add(a->ref, a->n, 0);
      ++a;
    } else if (a == from.entries.end() || b->ref < a->ref) {
      add(b->ref, 0, b->n);
      ++b;
    } else {
      if (a->n != b->n) add(a->ref, a->n, b->n);
      ++a;
      ++b;
    }
  }
  return moves;
}

namespace {

// A share of a tensor that one thread works on: whole blocks of a direction.
constexpr size_t kShare = size_t{1} << 18;

struct Share {
  const Parameter* parameter;
  size_t first, count;
  std::span<float> values() const { return parameter->values.subspan(first, count); }
};

std::vector<Share> SharesOf(std::span<const Parameter> parameters) {
  std::vector<Share> shares;
  for (const Parameter& parameter : parameters) {
    for (size_t first = 0; first < parameter.values.size(); first += kShare) {
      shares.push_back({&parameter, first, std::min(kShare, parameter.values.size() - first)});
    }
  }
  return shares;
}

// In so many threads, this one among them.
template <typename Work>
void ForEachShare(const std::vector<Share>& shares, size_t threads, const Work& work) {
  std::atomic<size_t> next{0};
  const auto loop = [&] {
    for (size_t i = next++; i < shares.size(); i = next++) work(shares[i]);
  };
  std::vector<std::thread> helpers;
  try {
    for (size_t i = 1; i < std::min(threads, shares.size()); ++i) helpers.emplace_back(loop);
  } catch (const std::system_error&) {  // fewer do the same
  }
  loop();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

Status ApplyMoves(Distribution distribution, std::span<const SeedMove> moves, std::span<Parameter> parameters,
                  unsigned threads) {
  float largest = 0;
  for (const SeedMove& one : moves) largest = std::max({largest, std::abs(one.move.from), std::abs(one.move.to)});
  for (const Parameter& parameter : parameters) {
    if (!(largest <= parameter.grid.max_scale())) {
      return FailedPrecondition("a direction's scale has grown beyond what the grid of '" + parameter.name +
                                "' can hold; the learning rate is too high");
    }
  }
  std::atomic<const Parameter*> left{nullptr};  // one whose weights left their range
  ForEachShare(SharesOf(parameters), threads, [&](const Share& share) {
    const Parameter& parameter = *share.parameter;
    MoveManyOnGrid(distribution, parameter.stream, moves, share.first, parameter.grid, share.values());
    if (!(MaxAbs(share.values()) <= parameter.grid.range())) left = share.parameter;
  });
  if (const Parameter* parameter = left) {
    return FailedPrecondition("weights of '" + parameter->name + "' have left their range of " +
                              std::to_string(parameter->grid.range()) + "; the learning rate is too high");
  }
  return OkStatus();
}

void MoveAlong(Distribution distribution, uint64_t seed, std::span<const Move> moves,
               std::span<const Parameter> parameters, unsigned threads) {
  size_t elements = 0;
  for (const Parameter& parameter : parameters) elements += parameter.values.size();
  // A thread is worth its start where it has a whole share to do.
  const size_t useful = std::clamp<size_t>(elements / kShare, 1, std::max(1U, threads));
  ForEachShare(SharesOf(parameters), useful, [&](const Share& share) {
    const Parameter& parameter = *share.parameter;
    MoveOnGrid({distribution, seed, parameter.stream}, share.first, moves, parameter.grid, share.values());
  });
}

Sha256Digest DigestOfWeights(std::span<const Parameter> parameters) {
  std::vector<const Parameter*> ordered;
  for (const Parameter& parameter : parameters) ordered.push_back(&parameter);
  std::sort(ordered.begin(), ordered.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Sha256Hasher hasher;
  const auto number = [&](uint64_t value) {
    std::byte bytes[8];
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
    hasher.Update(std::span<const std::byte>(bytes));
  };
  for (const Parameter* parameter : ordered) {
    number(parameter->name.size());
    hasher.Update(parameter->name);
    number(parameter->values.size());
    hasher.Update(std::as_bytes(parameter->values));
  }
  return hasher.Finish();
}

}  // namespace heddle::zo
