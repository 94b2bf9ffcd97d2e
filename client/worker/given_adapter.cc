#include "client/worker/given_adapter.h"

#include "aggregation/compression/coded_model.h"

namespace heddle::client {

Result<peft::Adapter> ReadGivenAdapter(const std::filesystem::path& folder) {
  HEDDLE_ASSIGN_OR_RETURN(peft::Adapter adapter, peft::ReadAdapter(folder));
  Result<StateDict> decoded = compression::DecodedModel(adapter.tensors);
  if (!decoded.ok()) return decoded.status().Annotate((folder / "adapter_model.safetensors").string());
  adapter.tensors = *std::move(decoded);
  return adapter;
}

}  // namespace heddle::client
