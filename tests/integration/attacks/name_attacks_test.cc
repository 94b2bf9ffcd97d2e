// Names inside of messages, from devices and from the administrator: what climbs, what no file may be called, what ends
// a text or a line, and what is longer than any name. They are refused or are mere text: nothing is written but where
// the coordinator keeps its own. Names in paths are in wire_attacks_test.cc.
#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <set>
#include <sstream>

#include "protocol/validate.h"
#include "tests/integration/attacks/attack_world.h"

namespace heddle::coordinator {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using protocol::Pki;

const std::string kNul("a\0b", 3);

struct Name {
  std::string text;
  bool printable;  // a name that a task might have
};

std::vector<Name> BadNames() {
  return {{"../../heddle-climbed", true},
          {"/tmp/heddle-climbed", true},
          {"..", true},
          {".", true},
          {".hidden", true},
          {"a/b", true},
          {"..\\heddle-climbed", true},
          {"%2e%2e%2fheddle-climbed", true},
          {"$(touch heddle-climbed)", true},
          {"", false},
          {kNul, false},
          {std::string(1, '\0'), false},
          {"a\nb", false},
          {"\x1b[2J", false},
          {"\xe2\x80\xae"
           "daeh",
           false},
          {std::string(129, 'a'), false},
          {std::string(100'000, 'a'), false},
          {std::string(33'000, '.') + "/", false}};
}

// Everything that lies beside the coordinator's folder, and the first level inside of it and of its runs.
std::set<std::string> Files(const AttackWorld& world) {
  std::set<std::string> out;
  const fs::path state = world.config_.state_dir, runs = state / "runs";
  for (auto entry = fs::recursive_directory_iterator(world.temp_.path()); entry != fs::end(entry); ++entry) {
    const fs::path parent = entry->path().parent_path();
    const bool beside = entry->path() != state && (parent == world.temp_.path() || parent == state || parent == runs);
    // What SQLite keeps beside its file comes and goes.
    if (beside && !entry->path().filename().string().starts_with("coordinator.db")) out.insert(entry->path().string());
    if (entry->is_directory() && entry->path() != state && entry->path() != runs) entry.disable_recursion_pending();
  }
  for (const fs::path& above : {world.temp_.path().parent_path(), fs::path("/"), fs::current_path()}) {
    EXPECT_FALSE(fs::exists(above / "heddle-climbed"));
  }
  return out;
}

// ---- devices ----

void ExpectMalformed(const HttpResponse& answer) { ExpectRefused(answer, v1::REFUSAL_REASON_MALFORMED); }

TEST(Attacks, NamesInAReportsUpdateAreFileNames) {
  AttackWorld world;
  const std::set<std::string> before = Files(world);
  std::vector<Attack> attacks;
  for (const Name& name : BadNames()) {
    attacks.push_back(
        {"an update by the name " + name.text.substr(0, 100), [&world, name] {
           const std::string bytes = world.UpdateOf("mallory");
           v1::ReportRequest report = world.ReportOf(world.TaskOf("mallory"), bytes);
           report.mutable_update()->set_name(name.text);
           ExpectMalformed(world.SendAs("mallory", HttpRequest("POST", "/v1/reports", report.SerializeAsString())));
           report.set_inline_update(bytes);
           ExpectMalformed(world.SendAs("mallory", HttpRequest("POST", "/v1/reports", report.SerializeAsString())));
         }});
  }
  world.Withstand(attacks);
  EXPECT_EQ(Files(world), before);
}

TEST(Attacks, NamesInACheckInAreNamesOrMalformed) {
  AttackWorld world;
  world.Device("dora");  // has no task, so that her check-in is looked at as a whole
  const std::set<std::string> before = Files(world);
  std::vector<Attack> attacks;
  for (const Name& name : BadNames()) {
    attacks.push_back({"a task and a version by the name " + name.text.substr(0, 100), [&world, name] {
                         v1::CheckinRequest checkin;
                         checkin.set_protocol_version(1);
                         checkin.add_local_tasks(name.text);
                         const auto ask = [&world](const v1::CheckinRequest& request) {
                           return world.SendAs("dora", HttpRequest("POST", "/v1/checkin", request.SerializeAsString()));
                         };
                         const HttpResponse answer = ask(checkin);
                         if (name.printable) {
                           v1::CheckinResponse response;
                           EXPECT_TRUE(answer.status == 200 && response.ParseFromString(answer.body)) << answer.status;
                           EXPECT_EQ(response.rejection().reason(), v1::REJECTION_REASON_UNSUPPORTED_TASK);
                         } else {
                           ExpectMalformed(answer);
                         }
                         if (name.printable || name.text.empty()) return;
                         checkin.set_local_tasks(0, "sft");
                         checkin.set_software_version(name.text);
                         ExpectMalformed(ask(checkin));
                         checkin.clear_software_version();
                         for (int i = 0; i < 64; ++i) checkin.add_local_tasks("sft");
                         ExpectMalformed(ask(checkin));
                       }});
  }
  world.Withstand(attacks);
  EXPECT_EQ(Files(world), before);
}

// A message is kept, in the history of the run: one line a round, whatever it says.
TEST(Attacks, AMessageOfAFailedTaskIsNoMoreThanText) {
  AttackWorld world;
  std::vector<Attack> attacks;
  for (const std::string& message : {std::string("\"}\n{\"round\": 99, \"outcome\": \"committed\"}\n"),
                                     kNul + "\r\n\x1b[2J\xe2\x80\xa8../../x", std::string(512, '"')}) {
    attacks.push_back({"the message " + message.substr(0, 30), [&world, message] {
                         v1::ReportRequest report;
                         report.set_assignment_id(world.TaskOf("mallory").assignment_id());
                         report.set_outcome(v1::TASK_OUTCOME_FAILED);
                         report.set_message(std::string(100'000, 'x'));
                         const auto send = [&] {
                           return world.SendAs("mallory",
                                               HttpRequest("POST", "/v1/reports", report.SerializeAsString()));
                         };
                         ExpectMalformed(send());
                         report.set_message(message);
                         EXPECT_EQ(send().status, 200U);
                       }});
  }
  world.Withstand(attacks);
  const fs::path folder(std::string(world.Run().at("folder").as_string()));
  std::istringstream history(Pki::Value(ReadFile(folder / "history.jsonl")));
  int lines = 0;
  for (std::string line; std::getline(history, line); ++lines) {
    EXPECT_EQ(json::parse(line).at("round").to_number<int>(), lines + 1) << line;
  }
  EXPECT_EQ(lines, kRounds);
}

// ---- the administrator ----

std::string Repeated(const std::string& piece, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += piece;
  return out;
}

std::string RecipeOf(const std::string& name, const std::string& base, const std::string& more = "") {
  return more + "name = \"" + name + "\"\n[model]\nbase = \"" + base + "\"\n[lora]\nr = 2\n";
}

// As a recipe writes them.
std::vector<std::string> WrittenNames() {
  return {"../../heddle-climbed",
          "/tmp/heddle-climbed",
          "..",
          ".",
          "",
          "a\\u0000b",
          "a\\nb",
          std::string(100'000, 'a'),
          "A",
          "a/b"};
}

struct RunRow {
  std::string name;
  json::object body;
};

std::vector<RunRow> Submissions() {
  std::vector<RunRow> rows;
  const auto row = [&rows](const std::string& name, const std::string& recipe, const std::string& folder) {
    rows.push_back({name, {{"recipe", recipe}, {"folder", folder}}});
  };
  for (const std::string& name : WrittenNames()) {
    const std::string shown = name.substr(0, 40);
    row("a run by the name " + shown, RecipeOf(name, HEDDLE_SOURCE_DIR "/model/pretrained/heddle-tiny"), "/");
    row("a base by the name " + shown, RecipeOf("climb", name), "/");
    row("a key by the name " + shown, RecipeOf("climb", "nowhere", "\"" + name + "\" = 1\n"), "/");
    row("a table by the name " + shown, RecipeOf("climb", "nowhere") + "[\"" + name + "\"]\nx = 1\n", "/");
    rows.push_back({"an override by the name " + shown,
                    {{"recipe", RecipeOf("climb", "nowhere")}, {"folder", "/"}, {"overrides", {{name, "1"}}}}});
    rows.push_back({"an override of the value " + shown,
                    {{"recipe", RecipeOf("climb", "nowhere")}, {"folder", "/"}, {"overrides", {{"name", name}}}}});
  }
  for (const char* base : {"/etc/passwd", "/dev", "/dev/zero", "/proc/self", "../../../../../../../../etc"}) {
    row(std::string("the base ") + base, RecipeOf("climb", base), "/tmp");
  }
  for (const std::string& folder :
       {std::string(), std::string("."), std::string(".."), std::string("relative/../.."), std::string("~"),
        std::string("file:///"), std::string(1, '\0'), "/" + kNul, "/tmp/../" + kNul, "/" + std::string(100'000, 'a'),
        Repeated("/..", 30'000), std::string("/proc/self/root/.."), std::string("/dev/null")}) {
    row("the folder " + folder.substr(0, 40), RecipeOf("climb", "nowhere"), folder);
  }
  row("a hundred thousand lists in one another", RecipeOf("climb", "nowhere", "x = " + Repeated("[", 100'000)), "/");
  row("tables in one another", RecipeOf("climb", "nowhere", "x = " + Repeated("{a=", 100'000)), "/");
  row("a key of many parts", RecipeOf("climb", "nowhere", Repeated("a.", 100'000) + "a = 1\n"), "/");
  row("a table of many parts", RecipeOf("climb", "nowhere") + "[" + Repeated("a.", 100'000) + "a]\n", "/");
  rows.push_back({"an override of many parts",
                  {{"recipe", RecipeOf("climb", "nowhere")},
                   {"folder", "/"},
                   {"overrides", {{Repeated("a.", 100'000) + "a", "1"}}}}});
  rows.push_back({"an override of a table whose key has many parts",
                  {{"recipe", RecipeOf("climb", "nowhere")},
                   {"folder", "/"},
                   {"overrides", {{"lora.rank_pattern", "{" + Repeated("a.", 100'000) + "a = 1}"}}}}});
  rows.push_back({"an override of lists in one another",
                  {{"recipe", RecipeOf("climb", "nowhere")},
                   {"folder", "/"},
                   {"overrides", {{"lora.target_modules", Repeated("[", 100'000)}}}}});
  return rows;
}

TEST(Attacks, NamesInASubmittedRunLeadNowhere) {
  AttackWorld world;
  const std::set<std::string> before = Files(world);
  const std::string bearer = "Bearer " + world.AdminToken();
  const auto submit = [&](const std::string& body, unsigned while_active) {
    const HttpResponse answer = world.Admin("POST", "/v1/runs", body, bearer);
    EXPECT_TRUE(answer.status == 400 || answer.status == 404 || answer.status == while_active)
        << answer.status << ": " << answer.body.substr(0, 500);
    EXPECT_EQ(answer.Header("Content-Type"), "application/problem+json");
    EXPECT_LT(answer.body.size(), 5000U) << "a name is not said again as a whole";
  };
  std::vector<Attack> attacks;
  std::vector<std::pair<std::string, std::string>> bodies = {
      {"lists in one another in place of a submission", std::string(500'000, '[')},
      {"objects in one another", Repeated("{\"folder\":", 50'000)},
      {"a folder that is none", "{\"recipe\": \"\", \"folder\": {}}"},
      {"overrides that are none", "{\"recipe\": \"\", \"folder\": \"/\", \"overrides\": [\"..\"]}"}};
  for (const RunRow& row : Submissions()) bodies.emplace_back(row.name, json::serialize(row.body));
  for (const auto& [name, body] : bodies) {
    attacks.push_back({name, [&submit, body = body] { submit(body, 409); }});
  }
  world.Withstand(attacks);
  for (const auto& [name, body] : bodies) {  // and again, where no run is in the way
    SCOPED_TRACE(name);
    submit(body, 400);
  }
  EXPECT_EQ(Files(world), before);
  EXPECT_EQ(json::parse(world.Admin("GET", "/v1/runs").body).at("runs").as_array().size(), 1U);
}

}  // namespace
}  // namespace heddle::coordinator
