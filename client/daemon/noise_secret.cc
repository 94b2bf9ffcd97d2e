#include "client/daemon/noise_secret.h"

#include <string>
#include <vector>

#include "aggregation/privacy/update_privacy.h"
#include "client/device_secret.h"
#include "client/worker/upload.h"
#include "common/file.h"

namespace heddle::client {

Status PlaceNoiseSecret(const v1::TaskPlan& plan, const std::filesystem::path& state_dir,
                        const std::filesystem::path& work) {
  const auto& upload = plan.train().rules().upload();
  const std::vector<std::string> words(upload.begin(), upload.end());
  HEDDLE_ASSIGN_OR_RETURN(const privacy::PlannedUpload planned, privacy::ParseUpload(words));
  if (planned.privacy.noise_multiplier == 0) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(const std::string secret, DeviceSecret(state_dir / kNoiseSecretFile));
  return WriteFileAtomically(work / kNoiseSecretFile, privacy::TaskSecret(secret, plan.SerializeAsString()), 0600);
}

}  // namespace heddle::client
