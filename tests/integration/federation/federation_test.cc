// Runs with real daemons over TLS: the same hash as the simulator's, whatever is killed on the way.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <set>
#include <sstream>

#include "tests/integration/federation/federation_world.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const Status ok_status = (expression);                                     \
    ASSERT_TRUE(ok_status.ok()) << #expression << ": " << ok_status.message(); \
  } while (false)

// Every committed round stands in history.jsonl once and has its checkpoint.
void ExpectWholeHistory(const fs::path& folder, uint32_t rounds) {
  std::istringstream lines(Slurp(folder / "history.jsonl"));
  std::multiset<int> committed;
  for (std::string line; std::getline(lines, line);) {
    boost::system::error_code error;
    const json::value value = json::parse(line, error);
    ASSERT_FALSE(error) << line;
    const json::object& round = value.as_object();
    if (TextOf(round, "phase") != "abandoned" && TextOf(round, "outcome") != "abandoned") {
      committed.insert(static_cast<int>(NumberOf(round, "round")));
    }
  }
  for (uint32_t round = 1; round <= rounds; ++round) {
    EXPECT_EQ(committed.count(static_cast<int>(round)), 1U) << "round " << round;
    const fs::path checkpoint = folder / "checkpoints" / ("round-" + std::to_string(round));
    EXPECT_TRUE(fs::is_regular_file(checkpoint / "adapter_model.safetensors")) << checkpoint;
    EXPECT_TRUE(fs::is_regular_file(checkpoint / "adapter_config.json")) << checkpoint;
  }
  EXPECT_EQ(committed.size(), rounds);
}

TEST(Federation, CommitsTheSameAdapterOverTlsAsTheSimulator) {
  FederationWorld world({"anna", "bert", "cora"});
  auto simulated = world.SimulatedHash();
  ASSERT_OK(simulated.status());
  ASSERT_EQ(simulated->size(), 64U);
  ASSERT_OK(world.Start());
  auto run = world.Submit();
  ASSERT_OK(run.status());
  auto end = world.WaitForEnd(*run);
  ASSERT_OK(end.status());
  EXPECT_EQ(TextOf(*end, "adapter_sha256"), *simulated);
  EXPECT_EQ(NumberOf(*end, "committed_rounds"), 2);
  EXPECT_GT(NumberOf(*end, "bytes_up"), 0);
  ExpectWholeHistory(TextOf(*end, "folder"), 2);
  ASSERT_OK(world.fleet().Stop());
}

}  // namespace
}  // namespace heddle
