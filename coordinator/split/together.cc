// Passes over the micro-batches of several sessions.
#include "coordinator/split/session.h"
#include "model/transformer/row_factors.h"

namespace heddle::coordinator {

using protocol::FrameKind;
using protocol::TensorFrame;
using torch::Tensor;

namespace {

// A session's factors for its own rows, in the layers of the network that computes for all.
void AddFactors(const std::map<std::string, model::Linear>& linears, const model::Transformer& session, int64_t rows,
                model::RowFactorsScope* scope) {
  const auto theirs = session->LinearModules();
  for (const auto& [path, linear] : linears) {
    const auto found = theirs.find(path);
    if (found == theirs.end() || !found->second->lora_A.defined()) continue;
    const model::Linear& own = found->second;
    scope->Add(linear, {rows, own->lora_A, own->lora_B, own->scaling, own->dropout, own->dropout_generator});
  }
}

// One tensor for all, where any has one; `fill` for those that have none.
Tensor Joined(const std::vector<Tensor>& parts, const std::vector<Tensor>& like, int64_t fill) {
  bool any = false;
  for (const Tensor& part : parts) any = any || part.defined();
  if (!any) return {};
  std::vector<Tensor> all;
  for (size_t i = 0; i < parts.size(); ++i) {
    all.push_back(parts[i].defined() ? parts[i]
                                     : torch::full({like[i].size(0), like[i].size(1)}, fill,
                                                   like[i].options().dtype(torch::kLong).requires_grad(false)));
  }
  return torch::cat(all);
}

}  // namespace

// Hidden states of all, in one graph.
void SplitSession::RunTogether(model::Transformer& network, const std::vector<SplitSession*>& sessions,
                               const std::vector<Micro*>& micros) {
  model::RowFactorsScope factors;
  const auto linears = network->LinearModules();
  std::vector<Tensor> xs, masks, segments;
  std::vector<int64_t> rows;
  for (size_t i = 0; i < micros.size(); ++i) {
    const Tensor& x = micros[i]->x;
    xs.push_back(x);
    rows.push_back(x.size(0));
    masks.push_back(micros[i]->input.mask);
    segments.push_back(micros[i]->input.segments);
    AddFactors(linears, sessions[i]->half_->network(), x.size(0) * x.size(1), &factors);
  }
  model::ModelInput input;
  input.mask = Joined(masks, xs, 1);
  input.segments = Joined(segments, xs, 0);
  const Tensor hidden = network->Middle(torch::cat(xs), input);
  const std::vector<Tensor> parts = hidden.split_with_sizes(rows);
  for (size_t i = 0; i < micros.size(); ++i) micros[i]->hidden = parts[i];
}

std::vector<Result<TensorFrame>> SplitSession::AnswerTogether(model::Transformer& network,
                                                              const std::vector<Turn>& turns) {
  std::vector<Result<TensorFrame>> answers(turns.size(), Result<TensorFrame>(Internal("a request was left out")));
  if (turns.size() == 1) {
    answers[0] = turns[0].session->Answer(*turns[0].request);
    return answers;
  }
  if (turns[0].request->kind == FrameKind::kActivations) {
    ForwardTogether(network, turns, &answers);
  } else {
    BackwardTogether(network, turns, &answers);
  }
  // Steps end in the order of the turns.
  for (size_t i = 0; i < turns.size(); ++i) {
    answers[i] = turns[i].session->Finish(*turns[i].request, std::move(answers[i]));
  }
  return answers;
}

void SplitSession::ForwardTogether(model::Transformer& network, const std::vector<Turn>& turns,
                                   std::vector<Result<TensorFrame>>* answers) {
  std::vector<Micro> micros;
  std::vector<SplitSession*> sessions;
  std::vector<size_t> places;
  for (size_t i = 0; i < turns.size(); ++i) {
    auto opened = turns[i].session->Open(*turns[i].request);
    if (!opened.ok()) {
      (*answers)[i] = opened.status();
      continue;
    }
    turns[i].session->BeginMicro(turns[i].request->step, turns[i].request->micro);
    micros.push_back(*std::move(opened));
    sessions.push_back(turns[i].session);
    places.push_back(i);
  }
  if (micros.empty()) return;
  std::vector<Micro*> all;
  const auto joint = std::make_shared<Joint>();
  for (Micro& micro : micros) {
    micro.joint = joint;
    all.push_back(&micro);
  }
  RunTogether(network, sessions, all);
  std::vector<Tensor> losses;
  std::vector<double> values(micros.size(), 0);
  for (size_t k = 0; k < micros.size(); ++k) {
    const TensorFrame& request = *turns[places[k]].request;
    if (sessions[k]->plan_.u_shaped()) {
      TensorFrame answer;
      const Status put = peft::PutTensor(micros[k].hidden, sessions[k]->plan_.encoding, &answer);
      if (put.ok()) sessions[k]->micros_.insert_or_assign(request.micro, std::move(micros[k]));
      (*answers)[places[k]] = put.ok() ? Result<TensorFrame>(std::move(answer)) : Result<TensorFrame>(put);
      continue;
    }
    auto loss = sessions[k]->HeadLoss(request, micros[k], &values[k]);
    if (!loss.ok()) {
      (*answers)[places[k]] = loss.status();
      continue;
    }
    sessions[k]->broken_ = true;
    if (request.counted > 0) losses.push_back(*loss);
    (*answers)[places[k]] = TensorFrame();
  }
  if (sessions[0]->plan_.u_shaped()) return;
  if (!losses.empty()) torch::autograd::backward(losses, {});
  for (size_t k = 0; k < micros.size(); ++k) {
    Result<TensorFrame>& answer = (*answers)[places[k]];
    if (answer.ok()) answer = sessions[k]->Gradient(micros[k].x, values[k]);
  }
}

void SplitSession::BackwardTogether(model::Transformer& network, const std::vector<Turn>& turns,
                                    std::vector<Result<TensorFrame>>* answers) {
  std::vector<Tensor> roots, gradients;
  std::vector<size_t> places;
  std::vector<SplitSession*> again;
  std::vector<Micro*> again_micros;
  for (size_t i = 0; i < turns.size(); ++i) {
    auto gradient = turns[i].session->OpenGradient(*turns[i].request);
    if (!gradient.ok()) {
      (*answers)[i] = gradient.status();
      continue;
    }
    Micro& micro = turns[i].session->micros_.at(turns[i].request->micro);
    if (micro.joint && micro.joint->spent) {  // the others did not wait: once more, together
      turns[i].session->half_->SeedDropout(turns[i].session->seed_, turns[i].request->step, turns[i].request->micro);
      micro.x = micro.x.detach().requires_grad_(true);
      again.push_back(turns[i].session);
      again_micros.push_back(&micro);
    }
    gradients.push_back(*gradient);
    places.push_back(i);
  }
  if (places.empty()) return;
  for (const size_t i : places) turns[i].session->broken_ = true;
  if (!again.empty()) RunTogether(network, again, again_micros);
  for (const size_t i : places) {
    Micro& micro = turns[i].session->micros_.at(turns[i].request->micro);
    if (micro.joint) micro.joint->spent = true;
    roots.push_back(micro.hidden);
  }
  torch::autograd::backward(roots, gradients);
  for (const size_t i : places) {
    SplitSession& session = *turns[i].session;
    (*answers)[i] = session.Gradient(session.micros_.at(turns[i].request->micro).x, turns[i].request->loss);
    session.micros_.erase(turns[i].request->micro);
  }
}

}  // namespace heddle::coordinator
