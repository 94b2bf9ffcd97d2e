// few_shot: which examples a device labels itself, what it keeps of them, and what it trains on; votes against brute
// force; a language model that answers a prompt.
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <fstream>
#include <set>

#include "client/worker/few_shot.h"
#include "client/worker/task_resources.h"
#include "client/worker/vote_k.h"
#include "common/random.h"
#include "model/config/registry.h"
#include "model/transformer/transformer.h"
#include "tests/unit/tasks/task_fixture.h"
#include "tests/unit/tasks/word_pieces.h"

namespace heddle::client {
namespace {

// By the definition, without any order of work: each time every score anew.
std::vector<int64_t> BruteVoteK(const std::vector<float>& rows, size_t width, size_t neighbours, size_t count) {
  const size_t n = rows.size() / width;
  const auto likeness = [&](size_t a, size_t b) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t k = 0; k < width; ++k) {
      const double x = rows[a * width + k], y = rows[b * width + k];
      dot += x * y;
      aa += x * x;
      bb += y * y;
    }
    return dot / std::sqrt(aa) / std::sqrt(bb);
  };
  const auto votes_for = [&](size_t voter, size_t candidate) {  // fewer than `neighbours` others are nearer
    if (voter == candidate) return false;
    size_t nearer = 0;
    for (size_t other = 0; other < n; ++other) {
      if (other == voter || other == candidate) continue;
      const double a = likeness(voter, other), b = likeness(voter, candidate);
      nearer += a > b || (a == b && other < candidate) ? 1 : 0;
    }
    return nearer < neighbours;
  };
  std::vector<int64_t> taken;
  while (taken.size() < std::min(count, n)) {
    std::pair<double, size_t> best = {-1, 0};
    for (size_t i = 0; i < n; ++i) {
      if (std::count(taken.begin(), taken.end(), static_cast<int64_t>(i)) > 0) continue;
      double score = 0;
      for (size_t voter = 0; voter < n; ++voter) {
        if (!votes_for(voter, i) || std::count(taken.begin(), taken.end(), static_cast<int64_t>(voter)) > 0) continue;
        int covered = 0;
        for (const int64_t t : taken) covered += votes_for(voter, static_cast<size_t>(t)) ? 1 : 0;
        score += std::pow(10.0, -covered);
      }
      if (score > best.first) best = {score, i};
    }
    taken.push_back(static_cast<int64_t>(best.second));
  }
  return taken;
}

TEST(VoteK, TakesWhatBruteForceTakes) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const PhiloxStream random(seed, 1);
    const size_t n = 3 + seed, width = 4;
    std::vector<float> rows(n * width);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = random.UniformAt(i) - 0.5F;
    for (const size_t neighbours : {size_t{1}, size_t{3}, size_t{50}}) {
      EXPECT_EQ(VoteK(rows, width, neighbours, n / 2 + 1), BruteVoteK(rows, width, neighbours, n / 2 + 1))
          << "seed " << seed << ", " << neighbours << " neighbours";
    }
  }
}

TEST(VoteK, TakesOneOfEachClusterBeforeASecondOfAny) {
  // Three directions with five, four and three examples.
  std::vector<float> rows;
  const size_t sizes[] = {5, 4, 3};
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < sizes[c]; ++i) {
      for (size_t k = 0; k < 3; ++k) rows.push_back(k == c ? 1.0F : 0.01F * static_cast<float>(i));
    }
  }
  std::set<size_t> clusters;
  for (const int64_t i : VoteK(rows, 3, 2, 3)) clusters.insert(i < 5 ? 0 : i < 9 ? 1 : 2);
  EXPECT_EQ(clusters.size(), 3U);
}

TEST(VoteK, GivesAllWhereThereAreNoMoreAndTakesRowsOfZeros) {
  EXPECT_EQ(VoteK({}, 4, 2, 3).size(), 0U);
  const std::vector<float> zeros(8, 0.0F);
  EXPECT_EQ(VoteK(zeros, 4, 2, 3).size(), 2U);
}

class FewShot : public TaskTest {
 protected:
  FewShot() {
    input_.train.local_steps = 3;
    input_.train.batch_size = 4;
    input_.train.sequence_length = 12;
    WriteBase("BertForSequenceClassification", R"(, "id2label": {"0": "negative", "1": "positive"})");
  }

  void WriteBase(const std::string& architecture, const std::string& more) {
    const auto spec = model::ParseModelConfig("{\"architectures\": [\"" + architecture + R"("], "hidden_size": 24,
      "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20,
      "max_position_embeddings": 32, "pad_token_id": 0)" +
                                              more + "}");
    ASSERT_TRUE(spec.ok()) << spec.status();
    std::filesystem::remove_all(folder_ / "base");
    std::filesystem::create_directory(folder_ / "base");
    folder_.Write("base/config.json", "{\"architectures\": [\"" + architecture + R"("], "hidden_size": 24,
      "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20,
      "max_position_embeddings": 32, "pad_token_id": 0)" +
                                          more + "}");
    ASSERT_TRUE(WriteSafetensors(folder_ / "base/model.safetensors", model::RandomWeights(*spec, 4, 0.3F)).ok());
    folder_.Write("base/tokenizer.json", TokenizerJson());
    folder_.Write("base/tokenizer_config.json",
                  R"({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]",
                      "unk_token": "[UNK]"})");
    config_ = {};
    config_.r = 4;
    config_.lora_alpha = 8;
    config_.target_modules_regex = "all-linear";
    const auto targets = peft::FindTargets(spec->LinearModules(), config_);
    ASSERT_TRUE(targets.ok()) << targets.status();
    initial_ = peft::MakeInitialAdapter(*targets, config_, 5);
    ASSERT_TRUE(peft::WriteAdapter(folder_ / "adapter", config_, initial_).ok());
  }

  // `labelled` of 20 sentences have a label.
  void WriteData(int labelled) {
    std::string lines;
    const PhiloxStream random(8);
    for (int i = 0; i < 20; ++i) {
      lines += "{\"text\": \"the film was";
      for (uint32_t k = 0; k < 4; ++k) lines += std::string(" ") + kWords[5 + random.U32At(4 * i + k) % 12];
      lines += i < labelled ? "\", \"label\": " + std::to_string(i % 2) + "}\n" : "\"}\n";
    }
    input_.data_path = folder_.Write("data.jsonl", lines);
  }

  // Accepts the last task's output.
  void Keep(const TaskOutput& output) {
    ASSERT_TRUE(WriteSafetensors(folder_ / "personal.safetensors", output.personal).ok());
    input_.personal_path = folder_ / "personal.safetensors";
  }

  Result<TaskOutput> RunFewShot() { return (*FindLocalTask("few_shot"))->Run(input_, *resources_, {}); }
  TaskOutput MustRun() {
    auto output = RunFewShot();
    EXPECT_TRUE(output.ok()) << output.status();
    return output.ok() ? *std::move(output) : TaskOutput{};
  }

  // The logits of an example by the model as the task finds it, one at a time.
  std::vector<double> LogitsOf(int64_t index) {
    auto base = *resources_->GetBase(input_.base_model_dir);
    auto examples = *resources_->GetExamples(input_.data_path, base, 12, {}, {true, {}});
    model::Transformer network(base.weights);
    network->eval();
    torch::NoGradGuard no_grad;
    const std::array<int64_t, 1> one = {index};
    const HeadBatch batch = ToHeadBatch(*examples->Rows(one, 0, 0), base.weights->spec);
    const torch::Tensor logits = network->forward(batch.input).to(torch::kFloat64).contiguous();
    return {logits.data_ptr<double>(), logits.data_ptr<double>() + logits.numel()};
  }

  static bool IsZero(const StateDict& update) {
    for (const auto& [name, tensor] : update) {
      for (const float value : tensor.values<float>()) {
        if (value != 0) return false;
      }
    }
    return true;
  }
};

TEST_F(FewShot, ADeviceWithoutALabelSendsZerosAndSaysThatItTookNoStep) {
  WriteData(0);
  input_.train.pseudo_labels.emplace();
  const TaskOutput output = MustRun();
  EXPECT_TRUE(IsZero(output.update));
  EXPECT_EQ(output.update.size(), initial_.size());
  EXPECT_EQ(output.stats.steps, 0U);
  EXPECT_EQ(output.stats.num_examples, 1U);
  EXPECT_EQ(output.stats.pseudo_labels, 0U);
}

TEST_F(FewShot, TheSurestExamplesOfEachClassAboveTheFloorAreLabelledInTurn) {
  WriteData(4);
  std::vector<std::pair<double, int64_t>> sure;
  std::vector<double> largest;
  for (int64_t i = 4; i < 20; ++i) {
    const std::vector<double> z = LogitsOf(i);
    sure.emplace_back(-std::abs(z[0] - z[1]), i);  // of two classes the probability grows with this
    largest.push_back(std::max(z[0], z[1]));
  }
  std::sort(largest.begin(), largest.end());
  const double floor = (largest[5] + largest[6]) / 2;  // six fall below
  std::set<int64_t> expected;
  std::sort(sure.begin(), sure.end());
  std::array<std::vector<std::pair<double, int64_t>>, 2> of_class;
  for (const auto& one : sure) {
    const std::vector<double> z = LogitsOf(one.second);
    if (std::max(z[0], z[1]) >= floor) of_class[z[0] > z[1] ? 0 : 1].push_back(one);
  }
  for (size_t turn = 0; turn < 20; ++turn) {
    std::vector<std::pair<double, int64_t>> both;
    for (const auto& some : of_class) {
      if (turn < some.size()) both.push_back(some[turn]);
    }
    std::sort(both.begin(), both.end());
    for (const auto& [minus, i] : both) {
      if (expected.size() < 7) expected.insert(i);
    }
  }
  input_.train.pseudo_labels = PseudoLabelSettings{.label_now = true, .samples = 7, .min_logit = floor};
  const TaskOutput output = MustRun();
  EXPECT_EQ(output.stats.pseudo_labels, 7U);
  EXPECT_EQ(output.stats.steps, 3U);
  const auto which = output.personal.at("heddle.pseudo.examples").values<int64_t>();
  EXPECT_EQ(std::set<int64_t>(which.begin(), which.end()), expected);
  const auto labels = output.personal.at("heddle.pseudo.labels").values<float>();
  for (size_t row = 0; row < which.size(); ++row) {
    const std::vector<double> z = LogitsOf(which[row]);
    EXPECT_EQ(labels[2 * row], z[0] > z[1] ? 1 : 0);
    EXPECT_EQ(labels[2 * row + 1], z[0] > z[1] ? 0 : 1);
  }
}

TEST_F(FewShot, SoftLabelsAreTheModelsProbabilities) {
  WriteData(0);
  input_.train.pseudo_labels = PseudoLabelSettings{.label_now = true, .soft = true, .samples = 20};
  const TaskOutput output = MustRun();
  const auto labels = output.personal.at("heddle.pseudo.labels").values<float>();
  ASSERT_EQ(labels.size(), 40U);
  for (size_t row = 0; row < 20; ++row) {
    const std::vector<double> z = LogitsOf(static_cast<int64_t>(row));
    EXPECT_NEAR(labels[2 * row], 1 / (1 + std::exp(z[1] - z[0])), 1e-5);
  }
}

TEST_F(FewShot, LabelsOfAnEarlierTaskAreTrainedOnUntilTheyAreMadeAnew) {
  WriteData(0);
  input_.train.pseudo_labels = PseudoLabelSettings{.label_now = true, .samples = 5, .neighbours = 3, .candidates = 2};
  const TaskOutput first = MustRun();
  EXPECT_EQ(first.stats.pseudo_labels, 5U);
  Keep(first);
  input_.train.pseudo_labels->label_now = false;
  const TaskOutput second = MustRun();
  EXPECT_EQ(second.stats.forward_passes, 0U);
  EXPECT_EQ(second.stats.steps, 3U);
  EXPECT_EQ(SerializeSafetensors(second.personal), SerializeSafetensors(first.personal));
  // The same task without the labels: the same as a device that never had any.
  input_.personal_path.clear();
  EXPECT_EQ(MustRun().stats.steps, 0U);
  // Of another data set they are forgotten.
  Keep(first);
  std::ofstream(input_.data_path, std::ios::app) << "{\"text\": \"the play\"}\n";
  EXPECT_EQ(MustRun().stats.steps, 0U);
}

TEST_F(FewShot, GivenLabelsAreNeverReplaced) {
  WriteData(20);
  input_.train.pseudo_labels = PseudoLabelSettings{.label_now = true, .samples = 20};
  EXPECT_EQ(MustRun().stats.pseudo_labels, 0U);
}

TEST_F(FewShot, RepresentativeExamplesAreThoseOfTheVote) {
  WriteData(0);
  input_.train.pseudo_labels = PseudoLabelSettings{.label_now = true, .samples = 6, .neighbours = 4, .candidates = 1};
  const TaskOutput output = MustRun();
  const auto which = output.personal.at("heddle.pseudo.examples").values<int64_t>();
  auto base = *resources_->GetBase(input_.base_model_dir);
  auto examples = *resources_->GetExamples(input_.data_path, base, 12, {}, {true, {}});
  model::Transformer network(base.weights);
  network->eval();
  torch::NoGradGuard no_grad;
  std::vector<float> rows;
  for (int64_t i = 0; i < 20; ++i) {  // one at a time, so without padding
    const std::array<int64_t, 1> one = {i};
    const HeadBatch batch = ToHeadBatch(*examples->Rows(one, 0, 0), base.weights->spec);
    const torch::Tensor mean = network->Hidden(batch.input).mean(1).contiguous();
    rows.insert(rows.end(), mean.data_ptr<float>(), mean.data_ptr<float>() + mean.numel());
  }
  const std::vector<int64_t> voted = BruteVoteK(rows, 24, 4, 6);
  EXPECT_EQ(std::set<int64_t>(which.begin(), which.end()), std::set<int64_t>(voted.begin(), voted.end()));
}

TEST_F(FewShot, AMaskedModelLearnsToAnswerAPrompt) {
  WriteBase("BertForMaskedLM", "");
  std::string rows = "text\tlabel\n";
  for (int i = 0; i < 40; ++i) {
    rows += i % 3 == 0 ? "the film is " : "the play is ";
    rows += i % 2 == 0 ? "fine\tyes\n" : "poor\tno\n";
  }
  input_.data_path = folder_.Write("prompted.tsv", rows);
  input_.train.prompt = PromptSettings{"{text} and was {mask} .", {"bad", "good"}, {"no", "yes"}};
  input_.train.local_steps = 40;
  input_.train.batch_size = 8;
  input_.train.learning_rate = 1e-2;
  const TaskOutput output = MustRun();
  ASSERT_TRUE(peft::WriteAdapter(folder_ / "trained", config_, Sum(initial_, output.update)).ok());
  EvaluationForm form;
  form.prompt = input_.train.prompt;
  const auto after =
      EvaluateModel(input_.base_model_dir, folder_ / "trained", input_.data_path, 12, *resources_, 1, form);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->num_examples, 40U);
  EXPECT_EQ(after->metrics.front().first, "accuracy");
  EXPECT_GT(after->metrics.front().second, 0.95);
  EXPECT_LT(output.stats.last_loss, 0.3 * output.stats.first_loss);
}

TEST_F(FewShot, WhatDoesNotGoTogetherIsRefused) {
  WriteData(4);
  input_.train.pseudo_labels = PseudoLabelSettings{};
  input_.train.rules.correction = "feddyn";
  input_.train.rules.feddyn_alpha = 0.1;
  EXPECT_EQ(RunFewShot().status().code(), Code::kInvalidArgument);
  input_.train.rules = {};
  input_.train.prompt = PromptSettings{"{text} {mask}", {"bad", "good"}, {}};
  EXPECT_NE(RunFewShot().status().message().find("classifier head"), std::string::npos);
  input_.train.prompt.reset();
  WriteBase("BertForMaskedLM", "");
  EXPECT_NE(RunFewShot().status().message().find("[prompt]"), std::string::npos);
  input_.train.prompt = PromptSettings{"{text} {mask}", {"bad", "good"}, {"one"}};
  EXPECT_NE(RunFewShot().status().message().find("label_names"), std::string::npos);
}

}  // namespace
}  // namespace heddle::client
