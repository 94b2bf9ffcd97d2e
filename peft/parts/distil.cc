#include "peft/parts/distil.h"

#include "peft/adapter/initial.h"

namespace heddle::peft {

using torch::Tensor;

namespace {

constexpr std::string_view kKeyPrefix = "base_model.model.";

}  // namespace

Tensor RelativeDistance(const Tensor& teacher, const Tensor& student, const Tensor& mask) {
  Tensor difference = (teacher - student).square(), size = teacher.square();
  if (mask.defined()) {
    const Tensor padding = mask.eq(0).unsqueeze(-1);
    difference = difference.masked_fill(padding, 0);
    size = size.masked_fill(padding, 0);
  }
  return difference.sum() / size.sum();  // both means are over as many numbers
}

Result<Distiller> Distiller::Make(const std::shared_ptr<const model::BaseWeights>& whole, const StateDict& checkpoint,
                                  const Emulator& emulator, const model::ComputeOptions& compute) {
  AdapterConfig config;
  config.peft_type = "FULL";
  config.layers_to_transform = emulator.Middle();
  if (config.layers_to_transform.empty()) {
    return InvalidArgument("the emulator keeps no layer between its ends that could be distilled; keep one or more");
  }
  // The emulator as a part of the model, under the names of the whole: it computes what the folder will.
  auto part = std::make_shared<model::BaseWeights>(*whole);
  part->spec.part.layers = emulator.layers;
  HEDDLE_RETURN_IF_ERROR(part->spec.Check());
  HEDDLE_ASSIGN_OR_RETURN(const StateDict start, MakeInitialAdapter(part->spec, config, checkpoint, 0));
  model::Transformer teacher(whole, compute), student(part, compute);
  HEDDLE_ASSIGN_OR_RETURN(Tuning tuning, Tuning::Inject(student, config, start));
  teacher->eval();
  student->train();
  return Distiller(teacher, student, std::move(tuning), emulator.num_layers - emulator.ends,
                   static_cast<int64_t>(emulator.layers.size()) - emulator.ends);
}

Distiller::Loss Distiller::LossOf(const model::ModelInput& input, const Tensor& targets, double lm_weight,
                                  double kd_weight) {
  Tensor wanted;
  {
    torch::NoGradGuard no_grad;
    wanted = teacher_->Front(input, teacher_layers_);
  }
  const Tensor got = student_->Front(input, student_layers_);
  const Tensor kd = RelativeDistance(wanted, got, input.mask);
  const Tensor lm = student_->TailLoss(student_->Middle(got, input, student_layers_), input, targets);
  return {lm_weight * lm + kd_weight * kd, lm.item<double>(), kd.item<double>()};
}

std::vector<Tensor> Distiller::parameters() const {
  std::vector<Tensor> out;
  for (const TunedParameter& one : tuning_.parameters()) out.push_back(one.tensor);
  return out;
}

StateDict Distiller::Values() const {
  StateDict out;
  const StateDict tuned = tuning_.Extract();
  for (const auto& [key, tensor] : tuned) out.emplace(key.substr(kKeyPrefix.size()), tensor);
  return out;
}

}  // namespace heddle::peft
