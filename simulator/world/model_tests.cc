#include "simulator/world/model_tests.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "client/worker/train_plan.h"

namespace heddle::simulator {
namespace {

namespace fs = std::filesystem;

class Tester {
 public:
  Tester(const coordinator::Recipe& recipe, fs::path base_model, client::TaskResources& resources)
      : recipe_(recipe), base_model_(std::move(base_model)), resources_(resources) {
    form_.device = recipe.simulation.device;
    form_.base_dtype = recipe.train.base_dtype();
    form_.prompt = client::ToTrainSettings(recipe.train).prompt;
  }

  Result<Figures> Test(const fs::path& adapter, const fs::path& data, unsigned threads) const {
    HEDDLE_ASSIGN_OR_RETURN(
        const client::Evaluation evaluation,
        client::EvaluateModel(base_model_, adapter, data, recipe_.train.sequence_length(), resources_, threads, form_));
    Figures figures = {{"loss", evaluation.loss}};
    figures.insert(figures.end(), evaluation.metrics.begin(), evaluation.metrics.end());
    return figures;
  }

 private:
  const coordinator::Recipe& recipe_;
  fs::path base_model_;
  client::TaskResources& resources_;
  client::EvaluationForm form_;
};

unsigned ThreadsOf(const coordinator::Recipe& recipe) {
  return recipe.simulation.threads > 0 ? recipe.simulation.threads : std::max(1U, std::thread::hardware_concurrency());
}

// Each device's own figures, on several threads with one compute thread each.
Status TestDevices(const Tester& tester, const coordinator::Recipe& recipe,
                   const std::vector<const DeviceSpec*>& devices, const std::vector<fs::path>& models,
                   std::vector<Figures>* out) {
  out->resize(devices.size());
  std::vector<Status> statuses(devices.size());
  std::atomic<size_t> next{0};
  const auto loop = [&] {
    for (size_t i = next++; i < devices.size(); i = next++) {
      auto figures = tester.Test(models[i], devices[i]->test, 1);
      if (figures.ok()) {
        (*out)[i] = *std::move(figures);
      } else {
        statuses[i] = figures.status().Annotate("device " + devices[i]->id.value());
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < ThreadsOf(recipe); ++i) threads.emplace_back(loop);
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) HEDDLE_RETURN_IF_ERROR(status);
  return OkStatus();
}

void AddFigures(const std::string& prefix, const Figures& figures, std::string* out) {
  for (const auto& [name, value] : figures) {
    if (!std::isfinite(value)) continue;
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    *out += (out->empty() ? "\"" : ",\"") + prefix + name + "\":" + text;
  }
}

}  // namespace

Result<ModelFigures> TestModel(const coordinator::Recipe& recipe, const fs::path& base_model,
                               const fs::path& checkpoint, const DeviceSet& devices, client::TaskResources& resources,
                               const ModelOfDevice& own_model) {
  const Tester tester(recipe, base_model, resources);
  ModelFigures figures;
  if (!devices.test.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(figures.test, tester.Test(checkpoint, devices.test, ThreadsOf(recipe)));
  }
  std::vector<const DeviceSpec*> tested;
  std::vector<fs::path> models;
  for (const DeviceSpec& device : devices.devices) {
    if (device.test.empty()) continue;
    HEDDLE_ASSIGN_OR_RETURN(fs::path model, own_model(device));
    tested.push_back(&device);
    models.push_back(std::move(model));
  }
  std::vector<Figures> each;
  HEDDLE_RETURN_IF_ERROR(TestDevices(tester, recipe, tested, models, &each));
  for (size_t i = 0; i < each.size(); ++i) {
    if (i == 0) {
      for (const auto& [name, value] : each[0]) figures.device.emplace_back(name, 0);
    }
    for (size_t k = 0; k < each[i].size(); ++k) {
      figures.device[k].second += each[i][k].second / static_cast<double>(each.size());
    }
    if (each[i].size() > 1)
      figures.device_min = i == 0 ? each[i][1].second : std::min(figures.device_min, each[i][1].second);
  }
  return figures;
}

bool IsTestRound(const coordinator::Recipe& recipe, uint32_t round) {
  const uint64_t every = recipe.simulation.eval_every;
  return round == recipe.spec.rounds || (every > 0 && round % every == 0);
}

std::string FiguresJson(const ModelFigures& figures) {
  std::string out;
  AddFigures("test_", figures.test, &out);
  AddFigures("device_", figures.device, &out);
  if (figures.device.size() > 1) AddFigures("worst_device_", {{figures.device[1].first, figures.device_min}}, &out);
  return out;
}

double FigureOf(const Figures& figures, std::string_view name) {
  for (const auto& [key, value] : figures) {
    if (key == name) return value;
  }
  return std::nan("");
}

}  // namespace heddle::simulator
