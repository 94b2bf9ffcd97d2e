#include "common/test_hooks.h"

#include <signal.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string>

namespace heddle::test_hooks {
namespace {

#define HEDDLE_TEXT(name, text) std::string_view(text),
constexpr std::array kFailpointNames = {HEDDLE_FAILPOINTS(HEDDLE_TEXT)};
constexpr std::array kBugDescriptions = {HEDDLE_PLANTED_BUGS(HEDDLE_TEXT)};
#undef HEDDLE_TEXT

// What the environment asked for when the process started.
struct Order {
  Failpoint point = Failpoint::kNone;
  std::atomic<int> passes_left{0};

  Order() {
    const char* text = std::getenv("HEDDLE_FAILPOINT");
    if (text == nullptr) return;
    const std::string copy = text;
    ::unsetenv("HEDDLE_FAILPOINT");  // a worker does not die of its daemon's
    std::string_view name = copy;
    int passes = 1;
    if (const size_t colon = name.find(':'); colon != std::string_view::npos) {
      std::from_chars(name.data() + colon + 1, name.data() + name.size(), passes);
      name = name.substr(0, colon);
    }
    passes_left = passes;
    for (size_t i = 1; i < kFailpointNames.size(); ++i) {
      if (kFailpointNames[i] == name) point = static_cast<Failpoint>(i);
    }
  }
};

// Before main, while no other thread reads the environment.
Order order;

std::atomic<PlantedBug> planted{PlantedBug::kNone};

}  // namespace

bool Enabled() {
#ifdef HEDDLE_TEST_HOOKS
  return true;
#else
  return false;
#endif
}

std::span<const std::string_view> FailpointNames() { return std::span(kFailpointNames).subspan(1); }

void Reach(Failpoint point) {
  if (order.point != point || point == Failpoint::kNone) return;
  if (order.passes_left.fetch_sub(1) == 1) ::raise(SIGKILL);
}

std::string_view DescriptionOf(PlantedBug bug) { return kBugDescriptions[static_cast<size_t>(bug)]; }

int NumPlantedBugs() { return static_cast<int>(kBugDescriptions.size()) - 1; }

void Plant(PlantedBug bug) { planted.store(bug, std::memory_order_relaxed); }

bool IsPlanted(PlantedBug bug) { return planted.load(std::memory_order_relaxed) == bug; }

}  // namespace heddle::test_hooks
