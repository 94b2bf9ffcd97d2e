// What history.jsonl says of a round's losses.
#include "coordinator/service/run_files.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>
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

TEST(RoundLosses, ThatDevicesWithholdAreNullAndNoLossOfTheRound) {
  ReportMetrics withheld = kTrained;
  withheld.train_loss = withheld.first_loss = withheld.last_loss = std::numeric_limits<double>::quiet_NaN();
  const RoundLosses losses = LossesOf(std::vector{Accepted("anna", withheld), Accepted("cora", kOther)});
  EXPECT_EQ(losses.num_examples, 40U);
  EXPECT_FALSE(losses.told());
  EXPECT_TRUE(LossesOf(std::vector{Accepted("cora", kOther)}).told());
  const json::object line = Line({Accepted("anna", withheld)});
  EXPECT_TRUE(line.at("train_loss").is_null());
  EXPECT_TRUE(line.at("devices").as_array().at(0).as_object().at("first_loss").is_null());
}

TEST(RunFile, SaysWhatTheNoiseOfTheDevicesGuarantees) {
  RunRecord run;
  run.id = RunId("test-00000001");
  RunOrigin origin;
  origin.spec.rounds = 12;
  const auto text = [&](const std::string& recipe) {
    origin.resolved_json = recipe;
    return json::parse(RunJson(run, origin, {})).as_object();
  };
  const json::object said = text(R"({"privacy":{"update_clip":0.1,"noise_multiplier":2}})").at("privacy").as_object();
  EXPECT_EQ(said.at("reports_of_a_device").to_number<int>(), 12);
  EXPECT_EQ(said.at("delta").to_number<double>(), 1e-5);
  const json::object& any = said.at("any_data").as_object();
  EXPECT_DOUBLE_EQ(any.at("rho_of_a_report").to_number<double>(), 0.5);
  EXPECT_NEAR(any.at("epsilon_of_the_run").to_number<double>(), 21.439605, 1e-5);
  EXPECT_NEAR(said.at("zeros").as_object().at("epsilon_of_the_run").to_number<double>(), 9.009882, 1e-5);
  EXPECT_LT(text(R"({"privacy":{"noise_multiplier":2.0,"delta":0.01}})")
                .at("privacy")
                .at("any_data")
                .at("epsilon_of_the_run")
                .to_number<double>(),
            21);
  for (const char* recipe : {"{}", R"({"privacy":{"update_clip":0.1}})", "", "no JSON"}) {
    EXPECT_FALSE(text(recipe).contains("privacy")) << recipe;
  }
}

}  // namespace
}  // namespace heddle::coordinator
