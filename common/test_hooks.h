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

// X(kName, "name-in-the-environment")
#define HEDDLE_FAILPOINTS(X) X(kNone, "")

// X(kName, "what the code does wrong then")
#define HEDDLE_PLANTED_BUGS(X) X(kNone, "")

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
