#include "client/model_tool/generate.h"

#include <torch/types.h>

#include <boost/json.hpp>

#include "client/worker/train_options.h"
#include "model/config/registry.h"
#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/unicode.h"
#include "model/transformer/blas_check.h"
#include "model/transformer/generate.h"
#include "peft/adapter/base_model.h"
#include "peft/tuning/tuning.h"

namespace heddle::client {
namespace {

// The prompt with what the tokenizer puts before it.
Result<std::vector<int64_t>> PromptIds(const model::Tokenizer& tokenizer, const std::string& prompt) {
  if (!model::IsValidUtf8(prompt)) return InvalidArgument("the prompt is not UTF-8");
  HEDDLE_ASSIGN_OR_RETURN(const auto encoding, tokenizer.EncodeText(prompt));
  size_t size = encoding.size();
  while (size > 0 && encoding.special_mask[size - 1] != 0 && size > (prompt.empty() ? 1U : 0U)) --size;
  std::vector<int64_t> ids(encoding.ids.begin(), encoding.ids.begin() + static_cast<std::ptrdiff_t>(size));
  if (ids.empty() && tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  return ids;
}

// As JSON takes it: U+FFFD for each byte that is no UTF-8.
std::string ValidUtf8(std::string_view text) {
  std::string valid;
  for (size_t position = 0; position < text.size();) {
    const model::DecodedChar c = model::DecodeUtf8(text, position);
    model::AppendUtf8(c.code_point, &valid);
    position += c.length;
  }
  return valid;
}

Status GenerateThrowing(const GenerateSettings& settings, std::ostream& out, std::ostream& said) {
  if (settings.threads > 0) at::set_num_threads(static_cast<int>(settings.threads));
  HEDDLE_ASSIGN_OR_RETURN(const torch::Device device, model::DeviceFromName(settings.device));
  HEDDLE_ASSIGN_OR_RETURN(const model::WeightType type, model::WeightTypeFromName(settings.dtype));
  model::ComputeOptions compute;
  if (type == model::WeightType::kBfloat16) {
    compute.type = at::kBFloat16;
    if (device.is_cpu()) model::WarnOfSlowBfloat16();
  }
  HEDDLE_ASSIGN_OR_RETURN(const auto base, model::BaseWeights::Load(settings.folder, {type, device}));
  HEDDLE_ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::Read(settings.folder));
  HEDDLE_RETURN_IF_ERROR(model::CheckTokenizerFits(base->spec.vocab_size, *tokenizer));
  model::Transformer network(base, compute);
  if (!settings.adapter.empty()) {
    HEDDLE_RETURN_IF_ERROR(peft::CheckBaseModel(settings.adapter, settings.folder));
    HEDDLE_ASSIGN_OR_RETURN(const peft::Adapter adapter, peft::ReadAdapter(settings.adapter));
    HEDDLE_RETURN_IF_ERROR(peft::Tuning::Inject(network, adapter.config, adapter.tensors, peft::Use::kFrozen).status());
  }
  network->eval();
  model::GenerateOptions options;
  options.max_new_tokens = settings.max_new_tokens;
  options.temperature = settings.temperature;
  options.top_k = settings.top_k;
  options.top_p = settings.top_p;
  options.seed = settings.seed;
  HEDDLE_ASSIGN_OR_RETURN(options.stop, model::ReadEndTokens(settings.folder, base->spec));
  if (tokenizer->eos_id() >= 0) options.stop.push_back(tokenizer->eos_id());
  model::StreamDecoder decoder(*tokenizer);
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<int64_t> prompt, PromptIds(*tokenizer, settings.prompt));
  // Whether a space comes first depends on the token before.
  if (!prompt.empty()) (void)decoder.Add(static_cast<int32_t>(prompt.back()));
  (void)decoder.Finish();
  std::string text;  // of JSON
  options.on_token = [&](int64_t id) {
    const std::string piece = decoder.Add(static_cast<int32_t>(id));
    if (settings.json) {
      text += piece;
    } else {
      out << piece << std::flush;
    }
    return out.good();
  };
  bool at_limit = false;
  options.on_limit = [&at_limit] { at_limit = true; };
  HEDDLE_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, model::Generate(network, prompt, options));
  if (settings.json) {
    text += decoder.Finish();
    out << boost::json::serialize(boost::json::object{{"text", ValidUtf8(text)}, {"tokens", ids.size()}});
  } else {
    out << decoder.Finish();
  }
  out << "\n" << std::flush;
  if (at_limit) {
    said << "heddle model: the text ends after " << ids.size() << " tokens: with its prompt it fills the "
         << base->spec.MaxLength() << " positions that the model has\n";
  }
  return OkStatus();
}

}  // namespace

Status GenerateText(const GenerateSettings& settings, std::ostream& out, std::ostream& said) {
  try {
    return GenerateThrowing(settings, out, said);
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return Internal(std::string("the text could not be generated: ") + error.what());
  }
}

}  // namespace heddle::client
