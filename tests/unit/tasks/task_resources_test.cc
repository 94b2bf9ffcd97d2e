// What tasks share is loaded once, and again when it changes.
#include "client/worker/task_resources.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/tasks/task_fixture.h"

namespace heddle::client {
namespace {

class TaskResourcesTest : public TaskTest {};

TEST_F(TaskResourcesTest, BaseModelIsLoadedOnceForAnyNumberOfThreads) {
  std::vector<TaskResources::Base> bases(4);
  {
    std::vector<std::jthread> threads;
    for (auto& base : bases) {
      threads.emplace_back([&] {
        auto got = resources_->GetBase(input_.base_model_dir);
        ASSERT_TRUE(got.ok()) << got.status();
        base = *got;
      });
    }
  }
  for (const auto& base : bases) {
    EXPECT_EQ(base.weights, bases[0].weights);
    EXPECT_EQ(base.tokenizer, bases[0].tokenizer);
  }
}

TEST_F(TaskResourcesTest, AFolderThatChangesIsReadAgain) {
  const auto before = *resources_->GetBase(input_.base_model_dir);
  model::WriteModelFolder(input_.base_model_dir, model::TinyConfig(), 2);
  const auto after = *resources_->GetBase(input_.base_model_dir);
  EXPECT_NE(before.weights, after.weights);
  const std::string name = "model.embed_tokens.weight";
  EXPECT_FALSE(torch::equal(before.weights->tensors.at(name), after.weights->tensors.at(name)));
}

TEST_F(TaskResourcesTest, ATextIsTokenizedOncePerLengthAndKindOfLastWindow) {
  const auto base = *resources_->GetBase(input_.base_model_dir);
  const auto first = *resources_->GetData(input_.data_path, base, 16);
  EXPECT_EQ(*resources_->GetData(input_.data_path, base, 16), first);
  EXPECT_NE(*resources_->GetData(input_.data_path, base, 8), first);
  EXPECT_NE(*resources_->GetData(input_.data_path, base, 16, model::LastWindow::kShort), first);
}

TEST_F(TaskResourcesTest, ATextThatChangesIsReadAgain) {
  const auto base = *resources_->GetBase(input_.base_model_dir);
  const auto before = *resources_->GetData(input_.data_path, base, 16);
  folder_.Write("data.txt", model::SampleText(10'000, 4));
  const auto after = *resources_->GetData(input_.data_path, base, 16);
  EXPECT_LT(after->num_tokens(), before->num_tokens());
}

TEST_F(TaskResourcesTest, TextsAreKeptWhileThereIsRoomTheLatestUsedFirst) {
  // A simulator's thousand devices must not fill the memory with texts.
  const auto base = *resources_->GetBase(input_.base_model_dir);
  const int64_t tokens = (*resources_->GetData(input_.data_path, base, 16))->num_tokens();
  TaskResources small(static_cast<uint64_t>(tokens) * 5 / 2);  // room for two
  std::vector<std::filesystem::path> paths;
  for (const char* name : {"a.txt", "b.txt", "c.txt"}) {
    std::filesystem::copy(input_.data_path, folder_ / name);
    paths.push_back(folder_ / name);
  }
  std::vector<std::weak_ptr<const model::TextDataset>> kept;
  for (const auto& path : {paths[0], paths[1], paths[0], paths[2]}) kept.push_back(*small.GetData(path, base, 16));
  EXPECT_FALSE(kept[0].expired());
  EXPECT_TRUE(kept[1].expired());
  EXPECT_FALSE(kept[3].expired());
  TaskResources none(1);
  const auto data = none.GetData(paths[0], base, 16);
  ASSERT_TRUE(data.ok());
  EXPECT_EQ((*data)->num_tokens(), tokens);
}

TEST_F(TaskResourcesTest, ATokenizerOfAnotherModelIsRefused) {
  folder_.Write("base/tokenizer.json", model::TinyTokenizerJson(400));
  const auto base = resources_->GetBase(input_.base_model_dir);
  EXPECT_EQ(base.status().code(), Code::kInvalidArgument);
  EXPECT_NE(base.status().message().find("tokenizer"), std::string::npos) << base.status();
}

}  // namespace
}  // namespace heddle::client
