// A device's labelled examples when few of them are: those that the data label, and those that the device labelled
// itself with the model of a round (PseudoLabels of task.proto). Also the data of a prompted language model, all of
// which have labels then.
//
// Life cycle: Open; Label, when the plan says so, before anything is trained; then Next and Loss as of any data; Keep
// once. What was labelled earlier comes with `personal` and is used until the next Label: so a device trains on the
// labels of its last accepted task, whatever was killed in between. They belong to a data set of so many examples; of
// another they are forgotten. One thread at a time. Include only from translation units of targets with TORCH.
#pragma once

#include <torch/types.h>

#include <map>
#include <memory>
#include <vector>

#include "client/worker/head_data.h"
#include "client/worker/local_task.h"
#include "model/data/record_order.h"

namespace heddle::client {

class FewShotData final : public HeadBatches {
 public:
  // Errors: those of GetExamples; kInvalidArgument for a model of words without a prompt, labels that are numbers, or a
  // method that corrects gradients, which an untrained device cannot answer.
  static Result<std::unique_ptr<FewShotData>> Open(const TaskInput& input, const TaskResources::Base& base,
                                                   TaskResources& resources, const StateDict& personal);

  // Labels anew with the network as it is, in evaluation mode and without gradients. Errors: kCancelled; those of
  // Examples.
  Status Label(model::Transformer& network, const ProgressCallback& progress);

  // Examples to train on; without any Next must not be called.
  size_t size() const { return labelled_.size(); }
  uint64_t num_pseudo() const { return pseudo_.size(); }
  uint64_t forward_passes() const { return forward_passes_; }

  Result<std::optional<HeadBatch>> Next() override;
  torch::Tensor Loss(model::Transformer& network, const HeadBatch& batch) const override;
  // What the device is to know in its next task.
  void Keep(StateDict* personal) const;

 private:
  FewShotData(const TaskInput& input, const TaskResources::Base& base, std::shared_ptr<const model::Examples> examples);
  // Recalled from earlier tasks; what does not fit these data is left out.
  void Recall(const StateDict& personal);
  void Order();
  Result<HeadBatch> BatchOf(std::span<const int64_t> indices) const;
  std::vector<int64_t> Pool() const;

  TaskInput input_;
  model::ModelSpec spec_;
  torch::Device device_;
  std::shared_ptr<const model::Examples> examples_;
  std::map<int64_t, int64_t> given_;              // class by example
  std::map<int64_t, std::vector<float>> pseudo_;  // probabilities of the classes by example
  std::vector<int64_t> labelled_;                 // of both, ascending
  std::optional<model::RecordOrder> order_;
  uint64_t position_ = 0, forward_passes_ = 0;
};

}  // namespace heddle::client
