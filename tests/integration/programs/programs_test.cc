// Mistakes of people, with the real programs: exit status 1 and one clear sentence for what is wrong with the world,
// exit status 2 for wrong usage.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "common/safetensors.h"
#include "common/subprocess.h"
#include "tests/unit/common/temp_dir.h"
#include "tests/unit/model/tiny_encoder.h"

namespace heddle {
namespace {

namespace fs = std::filesystem;

struct Ended {
  int status = -1;
  std::string said;  // on standard error
};

class Programs : public testing::Test {
 protected:
  Programs() {
    fs::create_directories(temp_ / "base");
    for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
      fs::copy_file(fs::path(HEDDLE_SOURCE_DIR) / "model/pretrained/heddle-tiny" / name, temp_ / "base" / name);
    }
    temp_.Write("data.txt", "some words\n");
  }

  Ended Run(std::vector<std::string> arguments) {
    const fs::path log = temp_ / "stderr", out = temp_ / "stdout";
    fs::remove(log);
    fs::remove(out);
    SubprocessOptions options;
    arguments[0] = (fs::path(HEDDLE_BINARY_DIR) / "bin" / arguments[0]).string();
    options.argv = std::move(arguments);
    options.stderr_file = log;
    options.stdout_file = out;
    auto process = Subprocess::Start(options);
    if (!process.ok()) {
      ADD_FAILURE() << process.status().message();
      return {};
    }
    const auto status = process->WaitFor(Seconds(20));
    EXPECT_TRUE(status.has_value()) << "it does not end";
    return {status.value_or(-1), Slurp(log)};
  }

  // Status 1; the program's name, then what was expected to be said of what is wrong and where, and what to do, and no
  // more than a few lines.
  void ExpectMistake(const std::vector<std::string>& arguments, std::vector<std::string> said,
                     const std::string& what_to_do) {
    said.push_back(what_to_do);
    const Ended ended = Run(arguments);
    EXPECT_EQ(ended.status, 1) << ended.said;
    const std::string name = arguments[1] == "model" ? "heddle model: " : arguments[0] + ": ";
    EXPECT_EQ(ended.said.rfind(name, 0), 0U) << ended.said;
    for (const std::string& part : said)
      EXPECT_NE(ended.said.find(part), std::string::npos) << part << "\n" << ended.said;
    EXPECT_LE(std::count(ended.said.begin(), ended.said.end(), '\n'), 3) << ended.said;
    EXPECT_EQ(ended.said.find("terminate called"), std::string::npos);
  }
  std::string Path(const std::string& name) const { return (temp_ / name).string(); }
  std::string Recipe(const std::string& more = "") {
    return temp_.Write("recipe.toml", "name = \"x\"\n[model]\nbase = \"base\"\n[train]\nsequence_length = 32\n" + more)
        .string();
  }

  TempDir temp_;
};

TEST_F(Programs, SayWhatIsWrongWithTheirConfiguration) {
  struct Case {
    const char* name;
    std::string program, content;
    std::vector<std::string> said;
    std::string what_to_do;
  };
  const std::string client =
      "[coordinator]\nhost = \"127.0.0.1\"\n[device]\nstate_dir = \"d\"\n[data]\npath = \"data.txt\"\n";
  const Case cases[] = {
      {"an unknown key",
       "heddle-coordinator",
       "[listen]\nprot = 1\n",
       {"listen.prot", "x.toml"},
       "did you mean 'listen.port'?"},
      {"a text for a number",
       "heddle-coordinator",
       "[listen]\nport = \"many\"\n",
       {"listen.port", "x.toml"},
       "must be a whole number"},
      {"a number that is too large",
       "heddle-coordinator",
       "[listen]\nport = 70000\n",
       {"listen.port"},
       "must be at most 65535"},
      {"an address that is not loopback",
       "heddle-coordinator",
       "[admin]\naddress = \"0.0.0.0\"\n",
       {"admin.address"},
       "is not one of 127.0.0.1, ::1"},
      {"no TOML", "heddle-coordinator", "[listen\n", {"x.toml:1"}, "expected ']'"},
      {"an unknown key",
       "heddle-client",
       client + "[worker]\nthread = 1\n",
       {"worker.thread"},
       "did you mean 'worker.threads'?"},
      {"a text for a number",
       "heddle-client",
       client + "[cache]\nmax_bytes = \"lots\"\n",
       {"cache.max_bytes"},
       "must be a whole number"},
      {"a required key",
       "heddle-client",
       "[data]\npath = \"data.txt\"\n",
       {"coordinator.host"},
       "is required: name or address"},
      {"a device without identity", "heddle-client", client, {"not enrolled"}, "run `heddle-client enroll`"},
      {"a coordinator without authority",
       "heddle-coordinator",
       "[storage]\nstate_dir = \"none\"\n",
       {"no authority"},
       "make one with: heddle coordinator init"},
  };
  for (const Case& mistake : cases) {
    SCOPED_TRACE(mistake.program + ": " + mistake.name);
    ExpectMistake({mistake.program, "--config", temp_.Write("x.toml", mistake.content).string()}, mistake.said,
                  mistake.what_to_do);
  }
  for (const char* program : {"heddle-coordinator", "heddle-client"}) {
    SCOPED_TRACE(program);
    ExpectMistake({program, "--config", Path("nowhere.toml")}, {"nowhere.toml"}, "check the path of the c");
  }
  const auto heddle = [&](std::vector<std::string> words, const std::vector<std::string>& said, const char* cure) {
    words.insert(words.begin(), {"heddle", "--config", Path("ok.toml")});
    ExpectMistake(words, said, cure);
  };
  heddle({"run", "list"}, {"ok.toml"}, "check the path of the coordinator");
  temp_.Write("ok.toml", "[storage]\nstate_dir = \"state\"\n[admin]\nport_file = \"port\"\n");
  heddle({"run", "list"}, {"no coordinator answers"}, "is heddle-coordinator running");
  heddle({"run", "list", "--config-set", "admin.port=0", "--config-set", "admin.port_file="}, {"admin.port is 0"},
         "set one of them");
  heddle({"device", "token", "anna"}, {"no coordinator in "}, "make one with: heddle coordinator init");
  EXPECT_EQ(Run({"heddle", "--config", Path("ok.toml"), "coordinator", "init"}).status, 0);
  heddle({"device", "token", "Not A Name"}, {"Not A Name"}, "must match");
  heddle({"device", "revoke", "nobody"}, {"no device nobody"}, "see `heddle device list`");
  heddle({"coordinator", "init"}, {"state/pki/ca.key"}, "remove it to make a new authority");
  const std::string client_toml = temp_.Write("client.toml", client).string();
  const auto enroll = [&](const std::string& token, const std::vector<std::string>& said, const char* cure) {
    ExpectMistake({"heddle-client", "enroll", "--config", client_toml, "--set", "coordinator.port=1", "--token", token},
                  said, cure);
  };
  enroll("nonsense", {"token"}, "copy all of it");
  enroll("secret." + std::string(64, '0'), {"127.0.0.1 port 1"}, "check coordinator.host and coordinator.port");
  ExpectMistake({"heddle-client", "--config", client_toml, "--set", "data.path=nowhere"}, {"data.path", "nowhere"},
                "check the path");
}

TEST_F(Programs, SayWhatIsWrongWithARecipeAndItsBaseModel) {
  auto expect = [&](const std::string& recipe, const std::vector<std::string>& said, const char* cure) {
    ExpectMistake({"heddle", "recipe", "check", recipe}, said, cure);
  };
  // The simulator reads recipes in the same way; it takes longer to start.
  auto expect_both = [&](const std::string& recipe, const std::vector<std::string>& said, const char* cure) {
    expect(recipe, said, cure);
    ExpectMistake({"heddle-simulate", "--out", Path("out"), recipe}, said, cure);
  };
  const std::string simulated = "[simulation]\ndevices = [\"a\"]\ndata = [\"data.txt\"]\n";
  expect_both(Path("nowhere.toml"), {"nowhere.toml"}, "check the path of the recipe");
  expect_both(Recipe("[strategy]\ncohort_sise = 1\n"), {"strategy.cohort_sise"},
              "did you mean 'strategy.cohort_size'?");
  expect(Recipe("batch_size = \"two\"\n"), {"train.batch_size"}, "must be a whole number");
  expect(Recipe("[strategy]\nname = \"FedAvgg\"\n"), {"FedAvgg"}, "did you mean 'FedAvg'?");
  expect(Recipe("[lora]\ntarget_modules = [\"q_prok\"]\n" + simulated), {"target_modules"}, "did you mean 'q_proj'?");
  expect(Recipe("optimizer = \"AdamX\"\n"), {"AdamX"}, "did you mean 'AdamW'?");

  const std::string good = Recipe(simulated);
  EXPECT_EQ(Run({"heddle", "recipe", "check", good}).status, 0);
  EXPECT_EQ(Run({"heddle", "recipe", "check", good, "--set", "lora.rank_pattern={ q_proj = 2 }"}).status, 0);
  // A sweep tells what is wrong with its last cell before it runs the first.
  ExpectMistake({"heddle-simulate", "--out", Path("sweep"), good, "--vary", "train.batch_size=1,two"},
                {"train.batch_size=two", "'two' is not a whole number"}, "change what it varies");
  EXPECT_FALSE(fs::exists(temp_ / "sweep"));
  const std::string weights = Slurp(temp_ / "base/model.safetensors");
  temp_.Write("base/model.safetensors", weights.substr(0, weights.size() - 1000));
  expect_both(good, {"model.safetensors", "truncated"}, "copy or save the file anew");
  temp_.Write("base/model.safetensors", weights.substr(0, 4));
  expect(good, {"model.safetensors"}, "copy or save the file anew");
  temp_.Write("base/model.safetensors", std::string(7, '\xff') + '\x7f' + weights.substr(8));
  expect(good, {"model.safetensors"}, "copy or save the file anew");
  temp_.Write("base/model.safetensors", weights);

  const std::string config = Slurp(temp_ / "base/config.json");
  auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    changed.replace(changed.find(from), from.size(), to);
    temp_.Write("base/config.json", changed);
  };
  with("\"hidden_size\": 160", "\"hidden_size\": 168");
  expect(good, {"base", "[2048, 160]"}, "copy config.json and weights from one model");
  with("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5");
  expect(good, {"weights lack model.layers.4."}, "copy config.json and weights from one model");
  temp_.Write("base/config.json", "{");
  expect(good, {"model.base", "config.json"}, "copy the file anew");
  temp_.Write("base/config.json", config);

  const std::string tokenizer = Slurp(temp_ / "base/tokenizer.json");
  temp_.Write("base/tokenizer.json", tokenizer.substr(0, tokenizer.size() / 2));
  expect(good, {"tokenizer.json"}, "copy the file anew");
  std::string added = tokenizer;
  const size_t id = added.find("\"id\": 0") != std::string::npos ? added.find("\"id\": 0") : added.find("\"id\":0");
  ASSERT_NE(id, std::string::npos);
  added.insert(added.find('0', id), "999");
  temp_.Write("base/tokenizer.json", added);
  expect_both(good, {"tokenizer does not fit the model"}, "copy the tokenizer of these weights");
  temp_.Write("base/tokenizer.json", tokenizer);
  fs::remove(temp_ / "base/tokenizer.json");
  expect(good, {"there is no tokenizer"}, "copy the model's beside its weights");
  fs::remove_all(temp_ / "base");
  expect_both(good, {"model.base", "base/config.json"}, "name a model's folder");
}

TEST_F(Programs, EndWithTwoForWrongUsage) {
  const std::vector<std::string> calls[] = {
      {"heddle"},
      {"heddle", "run"},
      {"heddle", "knit"},
      {"heddle", "run", "submit"},
      {"heddle", "--format", "xml", "run", "list"},
      {"heddle", "recipe", "check", "x.toml", "--set", "novalue"},
      {"heddle-coordinator", "--knit"},
      {"heddle-coordinator", "--set", "novalue"},
      {"heddle-client"},
      {"heddle-client", "--set", "novalue", "--config", "x"},
      {"heddle-client", "enroll", "--config", "x"},
      {"heddle-worker", "--knit"},
      {"heddle-simulate"},
      {"heddle-simulate", "x.toml", "--set", "=1"},
      {"heddle-simulate-split"},
      {"heddle-simulate-split", "x.toml"},
      {"heddle-simulate-split", "x.toml", "--folder", "x", "--set", "novalue"},
      {"heddle-simulate-split", "x.toml", "--folder", "x", "--device", "nameless"},
      {"heddle-split-server", "--plan", "x.toml"},
      {"heddle-split-client", "--plan", "x.toml"},
      {"heddle-split-worker", "--knit"},
  };
  for (const std::vector<std::string>& call : std::vector<std::vector<std::string>>{
           {"heddle", "knit"}, {"heddle", "run", "knit"}, {"heddle", "model", "knit"}}) {
    const std::string said = Run(call).said;
    EXPECT_NE(said.find("there is no command 'knit'"), std::string::npos) << said;
    EXPECT_NE(said.find("--help"), std::string::npos) << said;
  }
  for (const std::vector<std::string>& call : calls) {
    std::string line;
    for (const std::string& word : call) line += word + " ";
    SCOPED_TRACE(line);
    const Ended ended = Run(call);
    EXPECT_EQ(ended.status, 2) << ended.said;
    EXPECT_FALSE(ended.said.empty());
  }
  for (const char* program :
       {"heddle", "heddle-coordinator", "heddle-client", "heddle-worker", "heddle-simulate", "heddle-simulate-split",
        "heddle-split-server", "heddle-split-client", "heddle-split-worker"}) {
    SCOPED_TRACE(program);
    EXPECT_EQ(Run({program, "--help"}).status, 0);
    EXPECT_EQ(Run({program, "--version"}).status, 0);
  }
}

TEST_F(Programs, HeddleModelIsAProgramBesideHeddle) {
  const Ended inspect = Run({"heddle", "model", "inspect", Path("base"), "--batch", "4"});
  EXPECT_EQ(inspect.status, 0) << inspect.said;
  const std::string printed = Slurp(temp_ / "stdout");
  EXPECT_NE(printed.find("LlamaForCausalLM"), std::string::npos) << printed;
  EXPECT_NE(printed.find("target_modules = [\"q_proj\", \"v_proj\"]"), std::string::npos) << printed;

  for (const std::vector<std::string>& call : std::vector<std::vector<std::string>>{
           {"heddle", "model", "inspect", Path("nowhere")}, {"heddle", "model", "eval", Path("nowhere"), "x.txt"}}) {
    ExpectMistake(call, {"nowhere/config.json"}, "name a model's folder");
  }
  for (const char* data : {"nowhere", "nowhere.txt", "nowhere.csv"}) {
    ExpectMistake({"heddle", "model", "eval", Path("base"), Path(data)}, {Path(data)}, "check the data's path");
  }
  EXPECT_EQ(Run({"heddle", "model", "inspekt"}).status, 2);
  EXPECT_EQ(Run({"heddle", "model", "eval", "--help"}).status, 0);
  EXPECT_NE(Slurp(temp_ / "stdout").find("EOS between them and no BOS"), std::string::npos);
  for (const char* command : {"inspect", "eval", "generate"}) {
    std::vector<std::string> call = {"heddle", "model", command, Path("base"), Path("data.txt"), "--dtype", "fp16"};
    if (std::string(command) == "inspect") call.erase(call.begin() + 4);
    const Ended ended = Run(call);
    EXPECT_EQ(ended.status, 2) << ended.said;
    for (const char* part : {"--dtype", "fp16", "float32", "bfloat16", "nf4"}) {
      EXPECT_NE(ended.said.find(part), std::string::npos) << ended.said;
    }
  }
  EXPECT_EQ(Run({"heddle", "--format", "json", "model", "inspect"}).status, 2);  // 'model' comes first

  // Where it is not installed, heddle says so.
  fs::copy_file(fs::path(HEDDLE_BINARY_DIR) / "bin" / "heddle", temp_ / "heddle");
  const Ended alone = Run({Path("heddle"), "model", "inspect", Path("base")});
  EXPECT_EQ(alone.status, 1);
  EXPECT_NE(alone.said.find("not installed"), std::string::npos) << alone.said;
}

TEST_F(Programs, HeddleModelEvalSaysWhatIsWrongWithTexts) {
  const auto expect = [&](const char* name, const std::string& content, std::vector<std::string> said,
                          const char* what_to_do) {
    SCOPED_TRACE(content);
    const std::string data = temp_.Write(name, content).string();
    said.push_back(data);
    ExpectMistake({"heddle", "model", "eval", Path("base"), data}, said, what_to_do);
    EXPECT_EQ(Slurp(temp_ / "stdout"), "");
  };
  expect("a.txt", "", {"no token"}, "add text");
  expect("a.txt", "a\n", {"1 token", "a prediction takes two"}, "add text");
  expect("a.jsonl", "\n", {"is an empty data set"}, "it needs at least one example");
  expect("a.csv", "text\n", {"is an empty data set"}, "it needs at least one example");
  expect("a.jsonl", "{\"words\": \"x\"}\n", {"line 1"}, "the object needs \"text\"");
  expect("a.csv", "words,label\nx,1\n", {"there is no column text"}, "there are: words, label");
}

TEST_F(Programs, HeddleModelEvalSaysWhatIsWrongWithLabels) {
  const std::string config = model::BertConfigJson("BertForSequenceClassification", 1);  // two classes
  model::WriteWordPieceFiles(temp_ / "classifier");
  temp_.Write("classifier/config.json", config);
  const StateDict weights = model::RandomWeights(model::ParseModelConfig(config).value(), 1);
  ASSERT_TRUE(WriteSafetensors(temp_ / "classifier/model.safetensors", weights).ok());
  const auto expect = [&](const char* name, const std::string& content, std::vector<std::string> said,
                          const char* what_to_do) {
    SCOPED_TRACE(content);
    const std::string data = temp_.Write(name, content).string();
    said.push_back(data);
    ExpectMistake({"heddle", "model", "eval", Path("classifier"), data}, said, what_to_do);
    EXPECT_EQ(Slurp(temp_ / "stdout"), "");
  };
  expect("a.tsv", "text\tlabel\nthe river\t1\nthe loom\t2\n", {"line 3", "the label is 2"},
         "must be a whole number from 0 to 1");
  expect("a.jsonl", "{\"text\": \"the river\", \"label\": -1}\n", {"line 1", "the label is -1"},
         "must be a whole number from 0 to 1");
  expect("a.jsonl", "{\"text\": \"the river\"}\n", {"line 1"}, "there is no \"label\"");
  expect("a.tsv", "text\nthe river\n", {"there is no column \"label\""}, "there are: text");
  expect("a.tsv", "words\tlabel\nthe river\t1\n", {"there is no column text"}, "there are: words, label");
  expect("a.tsv", "text\tlabel\n", {"is an empty data set"}, "it needs at least one example");
  expect("a.txt", "the river\n", {"a text file has no labels"}, "use JSONL, CSV or TSV");

  const std::string good = temp_.Write("a.tsv", "text\tlabel\nthe river\t1\nthe loom\t0\n").string();
  const Ended ended = Run({"heddle", "model", "eval", Path("classifier"), good, "--format", "json"});
  ASSERT_EQ(ended.status, 0) << ended.said;
  const boost::json::object figures = boost::json::parse(Slurp(temp_ / "stdout")).as_object();
  EXPECT_EQ(figures.at("examples").to_number<int>(), 2);
  EXPECT_EQ(figures.at("tokens").to_number<int>(), 8);  // two words each, a beginning and an end
  EXPECT_TRUE(figures.at("metrics").as_object().contains("accuracy"));
}

// That each option reaches what it is for; what it does there is commands_test's.
TEST_F(Programs, HeddleModelTakesTheOptionsOfEvalAndGenerate) {
  fs::create_directories(temp_ / "adapter");
  temp_.Write("adapter/adapter_config.json",
              R"({"peft_type": "LORA", "r": 1, "lora_alpha": 8, "target_modules": ["down_proj"]})");
  StateDict adapter;
  for (int layer = 0; layer < 4; ++layer) {
    const std::string path = "base_model.model.model.layers." + std::to_string(layer) + ".mlp.down_proj.lora_";
    adapter.emplace(path + "A.weight", Tensor::FromFloats({1, 432}, std::vector<float>(432, 0.2F)));
    adapter.emplace(path + "B.weight", Tensor::FromFloats({160, 1}, std::vector<float>(160, 0.2F)));
  }
  ASSERT_TRUE(WriteSafetensors(temp_ / "adapter/adapter_model.safetensors", adapter).ok());
  std::string words;
  for (int i = 0; i < 200; ++i) words += "In the beginning God created the heaven and the earth. ";
  temp_.Write("words.txt", words);

  const auto printed = [&](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.begin(), {"heddle", "model"});
    arguments.insert(arguments.end(), {"--format", "json"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ended ended = Run(arguments);
    EXPECT_EQ(ended.status, 0) << ended.said;
    boost::json::error_code error;
    const auto value = boost::json::parse(Slurp(temp_ / "stdout"), error);
    EXPECT_TRUE(!error && value.is_object()) << Slurp(temp_ / "stdout");
    return value.is_object() ? value.get_object() : boost::json::object();
  };
  const auto eval = [&](const std::vector<std::string>& more) {
    return printed({"eval", Path("base"), Path("words.txt"), "--length", "32", "--threads", "1"}, more);
  };
  const boost::json::object plain = eval({}), narrow = eval({"--dtype", "nf4"}),
                            tuned = eval({"--adapter", Path("adapter")});
  EXPECT_EQ(plain.at("length").to_number<int>(), 32);
  EXPECT_EQ(plain.at("tokens"), narrow.at("tokens"));
  EXPECT_EQ(plain.at("data_tokens").to_number<int>(), plain.at("tokens").to_number<int>() + 1);
  const double loss = plain.at("loss").to_number<double>();
  EXPECT_NE(narrow.at("loss").to_number<double>(), loss);
  EXPECT_NEAR(narrow.at("loss").to_number<double>(), loss, 0.5);
  EXPECT_GT(tuned.at("loss").to_number<double>(), loss + 0.1);

  const auto text = [&](const std::vector<std::string>& more) {
    const auto object =
        printed({"generate", Path("base"), "In the beginning", "--max-tokens", "8", "--threads", "1"}, more);
    EXPECT_LE(object.at("tokens").to_number<int>(), 8);
    return std::string(object.at("text").as_string());
  };
  const std::vector<std::string> hot = {"--temperature", "20", "--seed", "5"};
  const std::string likeliest = text({});
  EXPECT_NE(text(hot), likeliest);
  EXPECT_EQ(text({"--temperature", "20", "--seed", "5", "--top-k", "1"}), likeliest);
  EXPECT_NE(text({"--adapter", Path("adapter")}), likeliest);
  EXPECT_EQ(Run({"heddle", "model", "generate", Path("base"), "a", "--format", "xml"}).status, 2);

  const auto made = printed({"emulator", Path("base"), Path("smaller"), "--keep", "1"}, {});
  EXPECT_EQ(made.at("num_layers").to_number<int>(), 4);
  EXPECT_EQ(made.at("layers").as_array().size(), 3U);
  EXPECT_EQ(boost::json::value_to<std::vector<int>>(made.at("layers_to_transform")), (std::vector<int>{0, 2}));
}

}  // namespace
}  // namespace heddle
