// What history.jsonl says of a round's losses.
#include "coordinator/service/run_files.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>
#include <vector>

namespace heddle::coordinator {
namespace {

namespace json = boost::json;

AssignmentRecord Accepted(const char* device, const ReportMetrics& metrics) {
  AssignmentRecord a;
  a.id = AssignmentId(std::string(32, device[0]));
  a.run = RunId("test-00000001");
  a.device = DeviceId(device);
  a.state = AssignmentState::kAccepted;
  a.metrics = metrics;
  return a;
}

json::object Line(const std::vector<AssignmentRecord>& assignments) {
  RoundRecord round;
  round.run = RunId("test-00000001");
  round.round = round.attempt = 1;
  round.phase = RoundPhase::kCommitted;
  return json::parse(HistoryLine(round, assignments, {})).as_object();
}

const ReportMetrics kTrained = {.num_examples = 30, .steps = 3, .train_loss = 2, .first_loss = 3, .last_loss = 1};
const ReportMetrics kOther = {.num_examples = 10, .steps = 1, .train_loss = 4, .first_loss = 4, .last_loss = 4};
const ReportMetrics kIdle = {.num_examples = 1, .steps = 0};  // had nothing to train on: its losses are no losses

TEST(RoundLosses, AreMeansOverTheDevicesThatTookSteps) {
  const RoundLosses losses =
      LossesOf(std::vector{Accepted("anna", kTrained), Accepted("bert", kIdle), Accepted("cora", kOther)});
  EXPECT_EQ(losses.num_accepted, 3U);
  EXPECT_EQ(losses.num_examples, 40U);
  EXPECT_DOUBLE_EQ(losses.train_loss, (30 * 2.0 + 10 * 4.0) / 40);
  EXPECT_DOUBLE_EQ(losses.first_loss, (30 * 3.0 + 10 * 4.0) / 40);
  EXPECT_DOUBLE_EQ(losses.last_loss, (30 * 1.0 + 10 * 4.0) / 40);
}

TEST(RoundLosses, OfUpdatesThatWereNotAcceptedDoNotCount) {
  AssignmentRecord late = Accepted("bert", kOther);
  late.state = AssignmentState::kLate;
  EXPECT_DOUBLE_EQ(LossesOf(std::vector{Accepted("anna", kTrained), late}).train_loss, 2);
}

TEST(RoundLosses, StandInTheHistoryOfDevicesAndRoundsThatTrainedOnly) {
  const json::object mixed = Line({Accepted("anna", kTrained), Accepted("bert", kIdle)});
  EXPECT_EQ(mixed.at("train_loss").to_number<double>(), 2);
  EXPECT_EQ(mixed.at("num_accepted").to_number<int>(), 2);
  const json::array& devices = mixed.at("devices").as_array();
  EXPECT_TRUE(devices.at(0).as_object().contains("train_loss"));
  EXPECT_FALSE(devices.at(1).as_object().contains("train_loss"));
  EXPECT_EQ(devices.at(1).as_object().at("steps").to_number<int>(), 0);
  const json::object nobody = Line({Accepted("bert", kIdle)});
  for (const char* key : {"train_loss", "first_loss", "last_loss"}) EXPECT_FALSE(nobody.contains(key)) << key;
}

}  // namespace
}  // namespace heddle::coordinator
